"""The ledger: a folder of patches with a history of additions, removals and undos, and the sum of the patches.

`Ledger` is imported at first use, because it needs torch; `kg_edit.ship.ledger.listing` lists a ledger without torch.
"""

from typing import TYPE_CHECKING

from kg_common import lazy_names

if TYPE_CHECKING:
    from kg_edit.ship.ledger.ledger import Ledger

__all__ = ["Ledger"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "kg_edit.ship.ledger.ledger": ["Ledger"],
    },
)
