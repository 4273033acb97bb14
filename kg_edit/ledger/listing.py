"""List the content of a ledger (its edits, their sizes and conflicts) without torch."""

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
    """A ledger for `kg-edit patch list`; it has the same edits and conflicts as `Ledger`."""

    store: Store

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the ledger at a path.

        Raises:
            OutputError: something else is at this path.
            PatchError: there is no ledger, or there are patches, but their log is missing.
        """
        return cls(open_store(path, create=False))

    @cached_property
    def changes(self) -> dict[int, Changes]:
        """The changes of every standing step."""
        return {step.number: self.store.changes(step.file) for step in standing(self.store.events())}

    @cached_property
    def edits(self) -> tuple[Entry, ...]:
        """Every edit that was added and not undone, standing or removed."""
        added = [event for event in in_force(self.store.events()) if isinstance(event, Added)]
        return entries({event.number: self.store.changes(event.file).edits for event in added}, self.changes)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Pairs of standing edits in conflict."""
        return conflicts([entry for entry in self.edits if entry.state == "standing"], self.changes)
