"""The ledger: a folder of patches with a history of additions, removals and undos, and the sum of the patches.

`Ledger` is imported at first use, because it needs torch; `kg_edit.ledger.listing` lists a ledger without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kg_edit.ledger.ledger import Ledger

__all__ = ["Ledger"]


def __getattr__(name: str) -> object:
    """Import `Ledger` at its first use."""
    if name != "Ledger":
        raise AttributeError(f"module 'kg_edit.ledger' has no attribute {name!r}; it has: Ledger")
    found: object = getattr(import_module("kg_edit.ledger.ledger"), name)
    return found
