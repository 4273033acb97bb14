"""A ledger: a folder of patches with a history, and the one patch that is their sum.

`Ledger` opens, reads and changes it. Edits are added as patches (`add`, `add_all`) or computed on the ledger's model
(`make`), removed (`remove`), and each of these changes can be undone (`undo`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import networkx as nx

from kg_edit.edits.inputs import Edits, as_edits
from kg_edit.errors import LedgerChangedError, PatchError, unmade_method
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods import EditingMethod
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.patches.base import Patch, as_patch
from kg_edit.patches.entries import Entry, check_records, find_positions, refuse_removed
from kg_edit.patches.guards import SeenEdits
from kg_edit.patches.weight_patch import sum_patches
from kg_edit.ship.ledger.additions import Addition, find_failed
from kg_edit.ship.ledger.listing import Listing, patch_file
from kg_edit.ship.ledger.log import (
    PATCHES,
    Added,
    Event,
    PatchStep,
    Removed,
    StoredFile,
    refuse_drift,
    sha256_of,
    stamp,
    undo_last,
)
from kg_edit.ship.ledger.removal import RecomputeContext, compute_remaining
from kg_edit.storage.run_folder import PATCH


class _Candidate(NamedTuple):
    """A patch to add, its source file if it has one, the steps before it, and its edits that failed when made."""

    patch: Patch
    source: Path | None
    after: tuple[int, ...]
    failed: tuple[str, ...] = ()


class Ledger(Listing):
    """Patches of one model, in the order in which they were added; every property describes the present state.

    Each change is one more line in the log, so it happens completely or not at all, and can be undone. After edits are
    removed, a ledger is the same as if they had never been made.
    """

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True) -> Self:
        """Open the ledger at a path. With ``create``, a new one is made when the first patch is added.

        Raises:
            OutputError: something else is at this path.
            PatchError: there is no ledger and ``create`` is false; or there are patches, but their log is missing.
        """
        return super().open(path, create=create)

    @property
    def events(self) -> tuple[Event, ...]:
        """All events that are in the log now, including those that were undone.

        The log is read again at each access, where a `Listing` reads it once; so every inherited property (`steps`,
        `patches`, `edits`, …) is of the present state too.
        """
        return self._store.events()

    @property
    def now(self) -> Listing:
        """The present state: its steps, patches and edits are of one state of the log, whoever writes meanwhile."""
        return Listing(self.folder, self._store)

    def add(
        self,
        patch: Patch | str | Path,
        *,
        after: Sequence[int] = (),
        on: Sequence[PatchStep] | None = None,
        force: bool = False,
        model: LanguageModel | str | Path | None = None,
    ) -> int:
        """Add a patch. A conflict does not prevent an addition; `conflicts` finds it.

        Args:
            patch: the patch, or its path; the active edits of another ledger become one step.
            after: the steps that the model had when the patch was computed; none for a patch of the unedited model.
            on: the steps on which the edit's result was checked: the patch is added only if exactly these steps are
                active, with the same files. None: no check.
            force: add a patch that is in the ledger already, or would probably break the model.
            model: also compare the change with this model's weights.

        Returns:
            The number of the new step.

        Raises:
            PatchError: the patch is damaged, already in the ledger, or would probably break the model.
            PatchMismatchError: the patch is for another model than the others.
            LedgerChangedError: the active steps differ from ``on``.
            OutputError: the ledger can't be written.
        """
        source = None
        if isinstance(patch, str | Path):
            source = patch_file(Path(patch))
        failed = find_failed(source) if source else ()
        new = _Candidate(_check_addable(as_patch(patch), source), source, tuple(after), failed)
        if model is not None:
            model = as_model(model)
        with self._store.locked():
            if on is not None and tuple(on) != self.steps:
                raise LedgerChangedError("the ledger changed since the edit was tried; try the edit again")
            unknown = set(after) - {step.number for step in self.steps}
            if unknown:
                raise PatchError(f"the patch can't come after step {min(unknown)}, which the ledger no longer has")
            (number,) = self._add([new], force=force, model=model)
        return number

    def add_all(
        self, additions: Sequence[Addition], *, force: bool = False, model: LanguageModel | None = None
    ) -> tuple[int, ...]:
        """Check all patch files, then add all of them, or none if one is refused; return their steps' numbers.

        Raises:
            KgEditError: as `add`; without ``force`` also a PatchError if a file is given twice.
        """
        patches = [_check_addable(Patch.load(addition.path), addition.path) for addition in additions]
        if not force:
            _refuse_repeated([addition.path for addition in additions])
        with self._store.locked():  # makes the folder, so what can be refused without it is refused before
            first = len(self.events) + 1
            new = list[_Candidate]()
            for addition, patch in zip(additions, patches, strict=True):
                after = tuple(first + index for index in addition.after)
                new.append(_Candidate(patch, addition.path, after, addition.failed))
            return self._add(new, force=force, model=model)

    def make(self, method: EditingMethod, edits: Edits, *, force: bool = False) -> int:
        """Make edits on the model with this ledger's patches, and add them; return the step's number.

        Raises:
            KgEditError: an edit can't be made, or would probably break the model (see ``force`` of `add`).
        """
        if isinstance(method, str | type):
            raise unmade_method(method)
        new_edits = as_edits(edits)
        method.check(new_edits)
        with self._store.locked():
            patches = self.patches
            before = sum_patches(patches.values())
            if before.is_empty:
                patch = method.edit(new_edits)
                after: tuple[int, ...] = ()
            else:
                patch = method.edit(new_edits, before=before)
                after = tuple(patches)
            new = _Candidate(_check_addable(patch, None), None, after)
            (number,) = self._add([new], force=force, model=method.model)
        return number

    def remove(
        self,
        names: str | Iterable[str],
        *,
        model: LanguageModel | str | Path | None = None,
        graph: SubgraphSource | nx.DiGraph | None = None,
    ) -> tuple[Entry, ...]:
        """Remove edits; other edits that were computed on a model with them are computed again.

        Args:
            names: a name, id or subject of an edit, or several; ``3/*`` means all edits of step 3.
            model: the unedited model or its name, needed if edits have to be computed again.
            graph: the graph that those edits were computed with.

        Returns:
            The removed edits.

        Raises:
            KgEditError: an edit is not in the ledger or already removed, or others can't be computed again; the ledger
                is then unchanged.
        """
        if model is not None:
            model = as_model(model)
        if isinstance(names, str):
            names = (names,)
        edit_names = tuple(names)
        if not edit_names:
            return ()
        with self._store.locked():
            edits = self.edits
            refuse_removed(edit_names, edits)
            active = [entry for entry in edits if entry.state == "active"]
            removed = frozenset(find_positions(edit_names, active))
            context = RecomputeContext(model=model, graph=graph)
            changed = compute_remaining(self.steps, self.patches, removed, context)

            removed_entries = tuple(entry for entry in active if entry.position in removed)  # the oldest first
            positions = tuple(entry.position for entry in removed_entries)
            files = self._store_changed(changed)
            self._store.append(Removed(**stamp(len(self.events) + 1), edits=positions, files=files))
        return removed_entries

    def _store_changed(self, changed: Mapping[int, Patch | None]) -> dict[int, StoredFile | None]:
        """Store the new patches of changed steps; return each step's new file, None if no edit of it is left."""
        to_store = {number: patch for number, patch in changed.items() if patch is not None}
        stored = dict(zip(to_store, self._store.put_all(to_store.values()), strict=True))
        return {number: stored.get(number) for number in changed}

    def undo(self, expected: int | None = None) -> Event:
        """Undo the last event that was not undone yet, and return it. ``expected`` is its number; None: no check.

        Raises:
            PatchError: there is none.
            LedgerChangedError: the last event has another number than expected.
            OutputError: the ledger can't be written.
        """
        return undo_last(self._store, expected)

    def _add(self, new: Sequence[_Candidate], *, force: bool, model: LanguageModel | None) -> tuple[int, ...]:
        """Check each patch against the active ones and those before it, then store all. Needs the lock."""
        if not force:
            self._refuse_stored(new)
        earlier = list(self.patches.values())
        seen = SeenEdits(earlier)
        for patch, source, _, _ in new:
            with _note_source(source):
                sum_patches([*earlier, patch])  # refuses a patch of another model
                if model is not None:
                    patch.check_model(model)
                if not force:
                    seen.add_checked(patch, model)
            earlier.append(patch)
        # The files are written first, then all lines of the log at once, so a kill or a full disk leaves all or none.
        files = self._store.put_all([source or patch for patch, source, _, _ in new])
        events: list[Added] = []
        number = len(self.events) + 1
        for candidate, file in zip(new, files, strict=True):
            name = _show_name(candidate.source)
            event = Added(**stamp(number), file=file, after=candidate.after, source=name, failed=candidate.failed)
            events.append(event)
            number += 1
        self._store.append(*events)
        return tuple(event.number for event in events)

    def _refuse_stored(self, new: Sequence[_Candidate]) -> None:
        """Refuse a patch file that an active step has."""
        steps = {step.file.sha256: step.number for step in self.steps}
        for _, source, _, _ in new:
            number = steps.get(sha256_of(source)) if source else None
            if number is not None:
                raise PatchError(
                    f"{source} is already in the ledger, as step {number}; use --force (force=True) to add it twice"
                )


def _refuse_repeated(paths: Sequence[Path]) -> None:
    """Refuse two files with the same content."""
    seen = dict[str, Path]()
    for path in paths:
        digest = sha256_of(path)
        if digest in seen:
            what = f"is the same patch as {seen[digest]}"
            if seen[digest] == path:
                what = "is given twice"
            raise PatchError(f"{path} {what}; give it once, or use --force (force=True) to add it twice")
        seen[digest] = path


def _show_name(source: Path | None) -> str | None:
    """Return the name of a file as the log has it. Every run's patch has the same name, so its folder is named too."""
    if source is None:
        return None
    if source.name == PATCH:
        return f"{source.resolve().parent.name}/{source.name}"
    return source.name


def _check_addable(patch: Patch, source: Path | None) -> Patch:
    """Return a patch that can be in a ledger: of a language model, with records of its edits and finite values."""
    if source:
        folder = source.resolve().parent
        if folder.name == PATCHES:
            refuse_drift(folder.parent)
    with _note_source(source):
        check_records(patch)
        patch.check_finite()
    return patch


@contextmanager
def _note_source(source: Path | None) -> Iterator[None]:
    """Add a note with the file's name to an error of the ``with`` block."""
    try:
        yield
    except PatchError as error:
        if source:
            error.add_note(f"in {source}")
        raise
