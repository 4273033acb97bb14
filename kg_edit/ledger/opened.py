"""What a user names: a ledger's folder, or a single patch file; and one ledger put into another."""

from __future__ import annotations

from pathlib import Path

from kg_edit.ledger.entries import Entry, entries_of
from kg_edit.ledger.ledger import Ledger
from kg_edit.patch import Patch


def standing_at(path: str | Path) -> tuple[Patch, tuple[Entry, ...]]:
    """What stands in a ledger, or is in a single patch file: the patch and its edits.

    Raises:
        PatchError: neither is there.
        OutputError: something else is there.
    """
    if Path(path).is_file():
        patch = Patch.load(path)
        return patch, entries_of(patch)
    ledger = Ledger.open(path, create=False)
    return ledger.patch, tuple(entry for entry in ledger.edits if entry.state == "standing")


def copy_steps(source: Ledger, target: Ledger, *, force: bool = False) -> tuple[int, ...]:
    """Add what stands in a ledger to another, each step after those it was computed after; the new steps' numbers.

    Raises:
        KgEditError: as `Ledger.add`; the steps before the one that was refused are added.
    """
    numbers = dict[int, int]()
    for step in source.steps:
        after = [numbers[earlier] for earlier in step.after if earlier in numbers]
        numbers[step.number] = target.add(source.file(step), after=after, force=force)
    return tuple(numbers.values())
