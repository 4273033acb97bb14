"""Patches with a history: what was added, removed and taken back, and the patch that stands."""

from kg_edit.ledger.ledger import Ledger

__all__ = ["Ledger"]
