"""What a ledger holds, for a look at it: its edits, their sizes and conflicts, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from kg_edit.ledger.conflicts import Conflict, conflicts
from kg_edit.ledger.entries import Entry, entries
from kg_edit.ledger.log import Added, Store, in_force, open_store, standing
from kg_edit.patches.changes import Changes


@dataclass(frozen=True)
class Listing:
    """A ledger as `kg-edit patch list` shows it; the same edits and conflicts as `Ledger` has."""

    store: Store

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The ledger at a path.

        Raises:
            OutputError: something else is there.
            PatchError: nothing is there, or patches without the log of what was done.
        """
        return cls(open_store(path, create=False))

    @cached_property
    def changes(self) -> dict[int, Changes]:
        """What every step that stands changes."""
        return {step.number: self.store.changes(step.file) for step in standing(self.store.events())}

    @cached_property
    def edits(self) -> tuple[Entry, ...]:
        """Every edit that was added and not undone, standing or removed."""
        added = [event for event in in_force(self.store.events()) if isinstance(event, Added)]
        return entries({event.number: self.store.changes(event.file).edits for event in added}, self.changes)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Standing edits that are in each other's way."""
        return conflicts([entry for entry in self.edits if entry.state == "standing"], self.changes)
