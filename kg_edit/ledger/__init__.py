"""The ledger: patches with a history of what was added, removed and taken back, and their sum.

`Ledger` is imported when it is first asked for: `kg_edit.ledger.listing` lists one without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kg_edit.ledger.ledger import Ledger

__all__ = ["Ledger"]


def __getattr__(name: str) -> object:
    """Import `Ledger` when it is first asked for."""
    if name != "Ledger":
        raise AttributeError(f"module 'kg_edit.ledger' has no attribute {name!r}; it has: Ledger")
    found: object = getattr(import_module("kg_edit.ledger.ledger"), name)
    return found
