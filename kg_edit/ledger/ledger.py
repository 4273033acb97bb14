"""A ledger: a folder of patches with a history, and the one patch that they add up to.

`Ledger` opens, reads and changes it. An `Addition` is a patch file on its way in: several are added together, all of
them or none.
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
    """A patch file to add; ``after`` are the places, among the additions, of those that it was computed after."""

    path: Path
    after: tuple[int, ...] = ()


def loaded(additions: Sequence[Addition]) -> Iterator[tuple[Addition, Patch]]:
    """Each addition with its patch, which could be part of a ledger.

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
    """Note at an error which file it is about."""
    try:
        yield
    except PatchError as error:
        error.add_note(f"in {addition.path}")
        raise


def check_addable(patch: Patch) -> None:
    """Refuse what can't be part of any ledger.

    Raises:
        PatchError: its records are not those of edits, or a number in it is not finite.
    """
    check_records(patch)
    patch.check_finite()


def refuse_repeated(additions: Sequence[Addition]) -> None:
    """Refuse additions of which two are the same file.

    Raises:
        PatchError: they are.
    """
    seen = dict[str, Path]()
    for addition in additions:
        digest = sha256_of(addition.path)
        if first := seen.get(digest):
            what = "is given twice" if first == addition.path else f"is the same patch as {first}"
            raise PatchError(f"{addition.path} {what}; name it once, or --force (force=True) adds it twice")
        seen[digest] = addition.path


class Ledger:
    """Patches of one model, in the order in which they were added; every property says what stands right now.

    Each change is one line more in the log, so that it happened or it did not, and can be taken back. A ledger in
    which edits were removed is what it would be had they never been asked for.
    """

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(Path(folder))

    @classmethod
    def open(cls, path: str | Path, *, create: bool = True) -> Self:
        """The ledger at a path; with ``create`` a new one comes to be with the first patch that is added.

        Raises:
            OutputError: something else is there.
            PatchError: nothing is there, and none shall be created; or patches without the log of what was done.
        """
        open_store(path, create=create)
        return cls(path)

    @property
    def folder(self) -> Path:
        """The folder that the ledger is kept in."""
        return self._store.folder

    @property
    def events(self) -> tuple[Event, ...]:
        """All that happened, also what was taken back."""
        return self._store.events()

    @property
    def steps(self) -> tuple[PatchStep, ...]:
        """The patches that stand, in the order in which they were added."""
        return standing(self.events)

    @property
    def patches(self) -> dict[int, Patch]:
        """The patch of every step that stands."""
        return {step.number: self._store.get(step.file) for step in self.steps}

    @property
    def changes(self) -> dict[int, Changes]:
        """What every step that stands changes, as plain arrays."""
        return {step.number: self._store.changes(step.file) for step in self.steps}

    @property
    def patch(self) -> Patch:
        """The sum of all that stands: the edited model is the model with this."""
        return total(self.patches.values())

    @property
    def edits(self) -> tuple[Entry, ...]:
        """Every edit that was added and not undone, standing or removed."""
        added = [event for event in in_force(self.events) if isinstance(event, Added)]
        return entries({event.number: self._store.get(event.file).edits for event in added}, self.patches)

    @property
    def recomputed(self) -> dict[EditPosition, Removed]:
        """The removal that made an edit anew, for each standing edit that is not as it was added."""
        here = {entry.place for entry in self.edits if entry.state == "standing"}
        found = recomputed_edits(in_force(self.events), self._store.get)
        return {place: event for place, event in found.items() if place in here}

    def file(self, step: PatchStep) -> Path:
        """The path of a step's patch file."""
        return self._store.path(step.file)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Standing edits that are in each other's way."""
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
        """Add a patch, or a file of one; its step's number.

        ``after`` are the steps whose changes the model had while the patch was computed; none for a patch of the
        unedited model. ``on`` are the steps on which its outcome was read: it is added only if these stand, with the
        same files, and no others (None: on whatever stands). With ``model`` the change is also measured against the
        weights. Conflicts are no reason to refuse; `conflicts` finds them.

        Raises:
            PatchError: the patch is damaged, here already, or looks as if it would break the model; with ``force``
                only if it is damaged.
            PatchMismatchError: the patch is for another model than the others.
            LedgerChangedError: other steps stand than ``on`` says.
            OutputError: the ledger can't be written.
        """
        source = None if isinstance(patch, Patch) else Path(patch)
        found = patch if isinstance(patch, Patch) else Patch.load(patch)
        check_addable(found)
        with self._store.locked():
            if on is not None and tuple(on) != self.steps:
                raise LedgerChangedError("the ledger changed since the edit was tried; try it again")
            if unknown := set(after) - set(self.patches):
                raise PatchError(f"the patch can't come after step {min(unknown)}, which does not stand")
            if source and not force:
                refuse_twice(source, self.steps)
            self._check(found, list(self.patches.values()), force=force, model=model)
            return self._written([(source or found, source)], [tuple(after)])[0]

    def add_all(
        self, additions: Sequence[Addition], *, force: bool = False, model: LanguageModel | None = None
    ) -> tuple[int, ...]:
        """Add patch files, or none of them where one is refused; their steps' numbers. All are looked at first.

        Raises:
            KgEditError: as `add`, and without ``force`` also where one file is there twice.
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
        """Make edits on the model as this ledger leaves it, and add them; the step's number.

        Raises:
            KgEditError: an edit can't be made, or looks as if it would break the model (see ``force`` of `add`).
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
        """Take edits out, by their ids or names (``3/*``: all of step 3); those that were removed.

        ``model`` (unedited) and ``graph`` are needed where edits have to be made anew.

        Raises:
            KgEditError: an edit is not here or removed already, or others can't be made anew; nothing has changed.
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
        """Take the last event back that was not taken back yet; that event.

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
        """Check patches against what stands, and each against those before it."""
        steps, others = self.steps, list(self.patches.values())
        for addition, patch in read:
            if not force:
                refuse_twice(addition.path, steps)
            with annotate_errors(addition):
                self._check(patch, others, force=force, model=model)
            others.append(patch)

    def _check(self, patch: Patch, others: Sequence[Patch], *, force: bool, model: LanguageModel | None) -> None:
        """Refuse a patch of another model than ``others``, or one that looks as if it would break it."""
        total([*others, patch])
        if model is not None:
            patch.check_model(model)
        if not force:
            refuse_disabling(patch, others, model)

    def _written(
        self, patches: Sequence[tuple[Patch | Path, Path | None]], after: Sequence[tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Store patches, each with its source, as the next steps; their numbers.

        The files come first, then all lines of the log at once: a kill or a full disk leaves all of them or none.
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
        """What the next event says of itself."""
        return stamp(len(self.events) + 1)
