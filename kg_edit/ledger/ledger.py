"""A ledger: a folder of patches with a history, and the one patch that is their sum.

`Ledger` opens, reads and changes it. An `Addition` is a patch file to be added. Several are added together: either all
of them or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.errors import LedgerChangedError, PatchError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.ledger.conflicts import Conflict, conflicts
from kg_edit.ledger.entries import EditPosition, Entry, check_records, entries, places_of, refuse_removed
from kg_edit.ledger.log import (
    Added,
    Event,
    PatchStep,
    Removed,
    Store,
    StoredFile,
    Undone,
    in_force,
    open_store,
    refuse_twice,
    sha256_of,
    stamp,
    standing,
)
from kg_edit.ledger.removal import RecomputeContext, recomputed_edits, total, without
from kg_edit.methods import EditingMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import Changes
from kg_edit.patches.guards import refuse_disabling


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A patch file to add; ``after`` are the indices of the additions that the model had when this one was computed."""

    path: Path
    after: tuple[int, ...] = ()


def loaded(additions: Sequence[Addition]) -> Iterator[tuple[Addition, Patch]]:
    """Yield each addition with its patch, after checking that the patch can be in a ledger.

    Raises:
        PatchError: a patch is damaged; a note names its file.
    """
    for addition in additions:
        patch = Patch.load(addition.path)
        with annotate_errors(addition):
            check_addable(patch)
        yield addition, patch


@contextmanager
def annotate_errors(addition: Addition) -> Iterator[None]:
    """Add a note with the file's name to an error in the ``with`` block."""
    try:
        yield
    except PatchError as error:
        error.add_note(f"in {addition.path}")
        raise


def check_addable(patch: Patch) -> None:
    """Refuse a patch that can't be in any ledger.

    Raises:
        PatchError: its records are not those of edits, or it has a value that is not finite.
    """
    check_records(patch)
    patch.check_finite()


def refuse_repeated(additions: Sequence[Addition]) -> None:
    """Refuse additions if two of them are the same file.

    Raises:
        PatchError: two are the same.
    """
    seen = dict[str, Path]()
    for addition in additions:
        digest = sha256_of(addition.path)
        if first := seen.get(digest):
            what = "is given twice" if first == addition.path else f"is the same patch as {first}"
            raise PatchError(f"{addition.path} {what}; give it once, or use --force (force=True) to add it twice")
        seen[digest] = addition.path


class Ledger:
    """Patches of one model, in the order in which they were added; every property describes the present state.

    Each change is one more line in the log, so it happens completely or not at all, and can be undone. After edits are
    removed, a ledger is as if they had never been asked for.
    """

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(Path(folder))

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True) -> Self:
        """Open the ledger at a path. With ``create``, a new one is made when the first patch is added.

        Raises:
            OutputError: something else is at this path.
            PatchError: there is no ledger and ``create`` is false; or there are patches, but their log is missing.
        """
        open_store(path, create=create)
        return cls(path)

    @property
    def folder(self) -> Path:
        """The folder of the ledger."""
        return self._store.folder

    @property
    def events(self) -> tuple[Event, ...]:
        """All events, including those that were undone."""
        return self._store.events()

    @property
    def steps(self) -> tuple[PatchStep, ...]:
        """The standing patches, in the order in which they were added."""
        return standing(self.events)

    @property
    def patches(self) -> dict[int, Patch]:
        """The patch of every standing step."""
        return {step.number: self._store.get(step.file) for step in self.steps}

    @property
    def changes(self) -> dict[int, Changes]:
        """The changes of every standing step, as plain arrays."""
        return {step.number: self._store.changes(step.file) for step in self.steps}

    @property
    def patch(self) -> Patch:
        """The sum of all standing patches; the edited model is the model with this patch."""
        return total(self.patches.values())

    @property
    def edits(self) -> tuple[Entry, ...]:
        """Every edit that was added and not undone, standing or removed."""
        added = [event for event in in_force(self.events) if isinstance(event, Added)]
        return entries({event.number: self._store.get(event.file).edits for event in added}, self.patches)

    @property
    def recomputed(self) -> dict[EditPosition, Removed]:
        """For each standing edit that was computed again, the removal that caused it."""
        here = {entry.place for entry in self.edits if entry.state == "standing"}
        found = recomputed_edits(in_force(self.events), self._store.get)
        return {place: event for place, event in found.items() if place in here}

    def file(self, step: PatchStep) -> Path:
        """The path of a step's patch file."""
        return self._store.path(step.file)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Pairs of standing edits in conflict."""
        return conflicts([entry for entry in self.edits if entry.state == "standing"], self.changes)

    def add(
        self,
        patch: Patch | str | Path,
        *,
        after: Sequence[int] = (),
        on: Sequence[PatchStep] | None = None,
        force: bool = False,
        model: LanguageModel | None = None,
    ) -> int:
        """Add a patch, or a patch file; return its step's number.

        ``after`` are the steps that the model had when the patch was computed; none for a patch of the unedited model.
        ``on`` are the steps on which its outcome was checked: the patch is added only if exactly these steps stand,
        with the same files (None: no check). With ``model``, the change is also compared with the model's weights. A
        conflict does not prevent an addition; `conflicts` finds it.

        Raises:
            PatchError: the patch is damaged, already in the ledger, or would probably break the model; with ``force``
                only if it is damaged.
            PatchMismatchError: the patch is for another model than the others.
            LedgerChangedError: the standing steps differ from ``on``.
            OutputError: the ledger can't be written.
        """
        source = None if isinstance(patch, Patch) else Path(patch)
        found = patch if isinstance(patch, Patch) else Patch.load(patch)
        check_addable(found)
        with self._store.locked():
            if on is not None and tuple(on) != self.steps:
                raise LedgerChangedError("the ledger changed since the edit was tried; try the edit again")
            if unknown := set(after) - set(self.patches):
                raise PatchError(f"the patch can't come after step {min(unknown)}, which the ledger no longer has")
            if source and not force:
                refuse_twice(source, self.steps)
            self._check(found, list(self.patches.values()), force=force, model=model)
            return self._written([(source or found, source)], [tuple(after)])[0]

    def add_all(
        self, additions: Sequence[Addition], *, force: bool = False, model: LanguageModel | None = None
    ) -> tuple[int, ...]:
        """Check all patch files, then add all of them, or none if one is refused; return their steps' numbers.

        Raises:
            KgEditError: as `add`; and without ``force`` also if a file is given twice.
        """
        read = [*loaded(additions)]
        if not force:
            refuse_repeated(additions)
        with self._store.locked():
            self._check_all(read, force=force, model=model)
            first = len(self.events) + 1
            after = [tuple(first + place for place in addition.after) for addition in additions]
            return self._written([(addition.path, addition.path) for addition in additions], after)

    def make(self, method: EditingMethod, edits: Sequence[Edit], *, force: bool = False) -> int:
        """Make edits on the model with this ledger's patches, and add them; return the step's number.

        Raises:
            KgEditError: an edit can't be made, or would probably break the model (see ``force`` of `add`).
        """
        method.check(edits)
        with self._store.locked():
            here = self.patches
            before = total(here.values())
            patch = method.update(edits, before=None if before.is_empty else before)
            check_records(patch)
            self._check(patch, list(here.values()), force=force, model=method.model)
            return self._written([(patch, None)], [() if before.is_empty else tuple(here)])[0]

    def remove(
        self,
        names: Iterable[str],
        *,
        model: LanguageModel | None = None,
        graph: SubgraphSource | nx.DiGraph | None = None,
    ) -> tuple[Entry, ...]:
        """Remove edits by their ids or names (``3/*``: all of step 3); return the removed edits.

        ``model`` (unedited) and ``graph`` are needed if other edits have to be computed again.

        Raises:
            KgEditError: an edit is not in the ledger or already removed, or others can't be computed again; the ledger
                is then unchanged.
        """
        with self._store.locked():
            wanted, every = tuple(names), self.edits
            refuse_removed(wanted, every)
            known = [entry for entry in every if entry.state == "standing"]
            taken = frozenset(places_of(wanted, known))
            found = without(self.steps, self.patches, taken, RecomputeContext(model=model, graph=graph))
            first = self._store.next_file()
            files: dict[int, StoredFile | None] = {}
            for offset, (number, patch) in enumerate(found.items()):
                files[number] = None if patch is None else self._store.put(patch, number=first + offset)
            self._store.append(Removed(**self._stamp(), edits=tuple(sorted(taken)), files=files))
        return tuple(entry for entry in known if entry.place in taken)

    def undo(self) -> Event:
        """Undo the last event that was not undone yet, and return it.

        Raises:
            PatchError: there is none.
            OutputError: the ledger can't be written.
        """
        with self._store.locked():
            left = in_force(self.events)
            if not left:
                raise PatchError(f"there is nothing to undo in {self.folder}")
            self._store.append(Undone(**self._stamp(), undoes=left[-1].number))
        return left[-1]

    def _check_all(self, read: Sequence[tuple[Addition, Patch]], *, force: bool, model: LanguageModel | None) -> None:
        """Check patches against the standing ones, and each against those before it."""
        steps, others = self.steps, list(self.patches.values())
        for addition, patch in read:
            if not force:
                refuse_twice(addition.path, steps)
            with annotate_errors(addition):
                self._check(patch, others, force=force, model=model)
            others.append(patch)

    def _check(self, patch: Patch, others: Sequence[Patch], *, force: bool, model: LanguageModel | None) -> None:
        """Refuse a patch of another model than ``others``, or one that would probably break the model."""
        total([*others, patch])
        if model is not None:
            patch.check_model(model)
        if not force:
            refuse_disabling(patch, others, model)

    def _written(
        self, patches: Sequence[tuple[Patch | Path, Path | None]], after: Sequence[tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Store patches, each with its source file, as the next steps; return their numbers.

        The files are written first, then all lines of the log at once, so a kill or a full disk leaves all of them or
        none.
        """
        stored = self._store.put_all([patch for patch, _ in patches])
        first = len(self.events) + 1
        events = [
            Added(**stamp(first + place), file=file, after=steps, source=source.name if source else None)
            for place, (file, steps, (_, source)) in enumerate(zip(stored, after, patches, strict=True))
        ]
        self._store.append(*events)
        return tuple(event.number for event in events)

    def _stamp(self) -> dict[str, Any]:
        """The common fields of the next event."""
        return stamp(len(self.events) + 1)
