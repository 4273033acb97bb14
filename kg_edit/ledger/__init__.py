"""The ledger: patches with a history of what was added, removed and taken back, and their sum."""

from kg_edit.ledger.ledger import Ledger

__all__ = ["Ledger"]
