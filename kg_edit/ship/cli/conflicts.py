"""How conflicts between edits are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kg_edit.cli.console import stdout
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.patches.conflicts import Conflict

_SHOWN = 20  # conflicts that are printed one by one


def show_conflicts(conflicts: Sequence[Conflict]) -> None:
    """Print the conflicts between edits of a ledger, the first ones one by one."""
    for conflict in conflicts[:_SHOWN]:
        stdout().print(f"[yellow]conflict[/yellow]: {plain(str(conflict))}", soft_wrap=True)
    if len(conflicts) > _SHOWN:
        stdout().print(f"… and {len(conflicts) - _SHOWN} more conflicts")
