"""Read the edits at a path that a user gives (a ledger, a patch file, or a folder with one), without torch.

`Listing` reads a ledger, as it is or as it was after an event (``ledger@3``); `Ledger` extends it with what changes
one. The functions after it read such a path: `check_patches` checks it, `patch_file` finds the patch file at it. Only
`active_at`, `read_folder` and the patches themselves need torch; `changes_at` reads changes of weights without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Self

from kg_common.terminal import number_of
from kg_edit.errors import OutputError, PatchError
from kg_edit.patches.changes import Changes, read_changes, sum_changes
from kg_edit.patches.conflicts import Conflict, find_conflicts
from kg_edit.patches.container import read_provenance
from kg_edit.patches.entries import EditPosition, Entry, list_entries, list_patch_entries
from kg_edit.ship.ledger.log import (
    LOG,
    Added,
    Event,
    PatchStep,
    Removed,
    Store,
    active_steps,
    in_force,
    open_store,
    split_event,
)
from kg_edit.storage.run_folder import PATCH

if TYPE_CHECKING:  # paths are checked without importing torch
    from kg_edit.patches.base import Patch


class Listing:
    """The edits of a ledger, their sizes and their conflicts.

    The log is read once, so everything is of one state of the ledger: with ``until``, of the state after the event of
    this number, whatever was added, removed or undone later.
    """

    def __init__(self, folder: str | Path, store: Store | None = None, *, until: int | None = None) -> None:
        self._store = store or Store(Path(folder))
        self._until = until

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Self:
        """Open the ledger at a path. With ``create``, a new one is made when the first patch is added."""
        open_store(path, create=create)
        return cls(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}: {number_of(len(self.active), 'active edit')})"

    def at(self, event: int) -> Listing:
        """Return the same ledger as it was after the event of this number."""
        number = len(self._store.events())
        if not 1 <= event <= number:
            folder = quote(str(self.folder))
            raise PatchError(
                f"{self.folder} has no event {event}, only 1 to {number}; kg-edit patch show {folder} lists them"
            )
        return Listing(self.folder, self._store, until=event)

    @property
    def folder(self) -> Path:
        """The folder of the ledger."""
        return self._store.folder

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """All events, including those that were undone."""
        return self._store.events()[: self._until]

    @property
    def steps(self) -> tuple[PatchStep, ...]:
        """The active patches, in the order in which they were added; each has the number of the event that added it."""
        return active_steps(self.events)

    @property
    def changes(self) -> dict[int, Changes]:
        """The changes of every active step, as plain arrays."""
        return {step.number: self._store.changes(step.file) for step in self.steps}

    @property
    def patches(self) -> dict[int, Patch]:
        """The patch of every active step."""
        return {step.number: self._store.get(step.file) for step in self.steps}

    @property
    def patch(self) -> Patch:
        """The sum of all active patches; the edited model is the model with this patch."""
        from kg_edit.patches.weight_patch import sum_patches

        return sum_patches(self.patches.values())

    @property
    def edits(self) -> tuple[Entry, ...]:
        """Every edit that was added and not undone, active or removed."""
        added = dict[int, Sequence[Mapping[str, Any]]]()  # the records of each step's edits, also of removed ones
        for event in in_force(self.events):
            if isinstance(event, Added):
                added[event.number] = self._store.changes(event.file).edits
        return list_entries(added, self.changes)

    @property
    def active(self) -> tuple[Entry, ...]:
        """The active edits: those that are part of the ledger's patch."""
        return tuple(entry for entry in self.edits if entry.state == "active")

    @property
    def failed(self) -> tuple[Entry, ...]:
        """The active edits that failed when they were made, without those that a later step makes again."""
        failed = {EditPosition(step.number, name) for step in self.steps for name in step.failed}
        if not failed:
            return ()
        entries = self.active
        for pair in find_conflicts(entries, {}):
            if pair.kind == "duplicate" and pair.first.position.step < pair.second.position.step:
                failed.discard(pair.first.position)
        return tuple(entry for entry in entries if entry.position in failed)

    @property
    def recomputed(self) -> dict[EditPosition, Removed]:
        """For each active edit that was computed again, the removal that caused it.

        torch is imported only if the ledger has a removal.
        """
        events = in_force(self.events)
        if not any(isinstance(event, Removed) for event in events):
            return {}
        from kg_edit.ship.ledger.removal import find_recomputed  # compares tensors

        active = {entry.position for entry in self.active}
        removals = find_recomputed(events, self._store.get)
        return {position: event for position, event in removals.items() if position in active}

    def file(self, step: PatchStep) -> Path:
        """Return the path of a step's patch file."""
        return self._store.path(step.file)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Return the pairs of active edits in conflict."""
        return find_conflicts(self.active, self.changes)


def read_listing(path: str | Path) -> Listing:
    """Open the ledger at a path to read it; ``ledger@3`` is the ledger as it was after its third event."""
    folder, event = split_event(path)
    listing = Listing.open(folder)
    return listing if event is None else listing.at(event)


def read_folder(path: Path) -> Patch:
    """Return the patch of a ledger, or of a folder of `kg-edit edit`: what `Patch.load` does with a folder."""
    from kg_edit.patches.base import Patch

    file = patch_file(path)
    return Patch.load(file) if file else Listing.open(path).patch


def check_patches(paths: Iterable[Path]) -> None:
    """Check the patch files, folders of `kg-edit edit` and ledgers that a user names, without torch."""
    for path in paths:
        file = patch_file(path)
        folder, _ = split_event(path)
        if file is None and folder.is_dir():
            read_listing(path)
            continue
        if not folder.exists() and folder.suffix != ".safetensors":
            near = Store(folder).nearest()
            hint = f", did you mean {near}?" if near else "; check the path"
            raise PatchError(f"there is no ledger, patch or run folder {folder}{hint}")
        read_provenance(file or path)


def active_at(path: str | Path) -> tuple[Patch, tuple[Entry, ...]]:
    """Load the patch and the active edits of a ledger, of a patch file, or of a folder of `kg-edit edit`.

    ``ledger@3`` is the ledger as it was after its third event.
    """
    from kg_edit.patches.base import Patch

    if file := patch_file(Path(path)):
        patch = Patch.load(file)
        return patch, list_patch_entries(patch)
    ledger = read_listing(path)
    return ledger.patch, ledger.active


def changes_at(path: str | Path) -> tuple[Changes, tuple[Entry, ...]] | None:
    """Read what `active_at` loads, but as arrays, without torch; None if `sum_changes` can't add them up."""
    if file := patch_file(Path(path)):
        parts = [read_changes(file)]
        active = list_patch_entries(parts[0])
    else:
        ledger = read_listing(path)
        parts = list(ledger.changes.values())
        active = ledger.active
    changes = sum_changes(parts)
    return None if changes is None else (changes, active)


def only_file(path: Path) -> Path | None:
    """Return the one patch file that a path stands for; None for a ledger with several active steps, or with none."""
    if file := patch_file(path):
        return file
    ledger = read_listing(path)
    files = [ledger.file(step) for step in ledger.steps]
    return files[0] if len(files) == 1 else None


def patch_file(path: Path) -> Path | None:
    """Return the patch file at a path, or in its folder; None for a ledger, even if its folder has a patch too."""
    try:
        if path.is_file():
            return path
        if (path / LOG).is_file() or not (path / PATCH).is_file():
            return None
        return path / PATCH
    except OSError as error:  # the name is too long, or a folder is not readable
        raise OutputError(f"can't read {path}: {error.strerror}; check the path") from error
