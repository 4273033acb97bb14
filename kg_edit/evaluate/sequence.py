"""One sequence of edits: the model as it is, the edits step after step, and the scores on the way and at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

from kg_edit.evaluate.case import Case
from kg_edit.evaluate.editing import FAILURES, make_step, said
from kg_edit.evaluate.entries import edit_entry, entry_of
from kg_edit.evaluate.general import general_scores
from kg_edit.evaluate.item import Item
from kg_edit.evaluate.method import Method
from kg_edit.evaluate.missing import Done, Points, missing_phases, missing_points, phase_of
from kg_edit.evaluate.plan import Plan, Scoring
from kg_edit.evaluate.records import BASE, EDIT, Entry, Point, RunFolder, Section
from kg_edit.evaluate.scorer import ceiling_cases, score_cases
from kg_edit.evaluate.together import TOGETHER, Ahead, keep_unedited
from kg_edit.evaluate.unedited import UneditedScores
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.out_of_memory import in_halves


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the sequences of a run share, with what was done of it before this start."""

    method: Method
    model: LanguageModel
    folder: RunFolder
    plan: Plan
    unedited: UneditedScores
    general: str | None
    ceilings: bool
    done: Done
    points: Points
    ahead: Ahead = field(default_factory=Ahead)


@dataclass(frozen=True, kw_only=True)
class SequenceRun:
    """A sequence of a job: its number and its items."""

    job: Job
    number: int
    items: Sequence[Item]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        job, ids = self.job, [item.id for item in self.items]
        points = () if job.general is None else missing_points(job.plan, self.number, len(ids), job.points)
        return not any(True for _ in (*missing_phases(job.plan, ids, job.done), *points))

    def run(self, after_step: Callable[[int], object] = lambda _: None) -> None:
        """Do what is left; ``after_step`` gets the number of records that a step edits.

        A failed edit leaves the model as it is, and its record is scored on the model as it then is.

        Raises:
            OutputError: a result can't be written; all before it is kept.
        """
        usable = {item.id for some in _chunks(self.items) for item in self._bases(some)}
        self._find_general(0, None)
        patch: Patch | None = None
        for step, scoring in enumerate(self.job.plan.scorings(len(self.items))):
            edited, scored = (
                [self.items[place] for place in places if self.items[place].id in usable]
                for places in (scoring.step, scoring.places)
            )
            update = self._make(step, edited, patch)
            patch = patch + update if patch and update else update or patch
            self._score(scoring, scored, patch)
            if scoring.on_curve:
                self._find_general(scoring.edits, patch)
            after_step(len(scoring.step))

    def _bases(self, items: Sequence[Item]) -> list[Item]:
        """Score the items on the unedited model, at once where that can be done; those with which one can go on."""
        if len(self.items) > 1:
            keep_unedited(self.job.model, self.job.unedited, items, self.job.done, ceilings=self.job.ceilings)
        return [item for item in items if self._base(item)]

    def _base(self, item: Item) -> bool:
        """Score the item on the unedited model; whether that can be done."""
        key = (item.id, BASE)
        if key in self.job.done:
            return self.job.done[key] is None
        cases = {BASE: item.case, **(ceiling_cases(item.case) if self.job.ceilings else {})}
        try:
            sections = self.job.unedited.sections(self.job.model, cases)
        except FAILURES as error:
            self.job.folder.append([entry_of(item, BASE, error=said(error), choices=item.case.choices)])
            return False
        self.job.folder.append([entry_of(item, BASE, sections=sections, choices=item.case.choices)])
        return True

    def _make(self, number: int, items: Sequence[Item], before: Patch | None) -> Patch | None:
        """The patch of step ``number``, read where it was saved; None if no edit of it can be made."""
        job, file = self.job, self.job.folder.step(self.number, number)
        new = [item for item in items if (item.id, EDIT) not in job.done]
        if not new and all(job.done[item.id, EDIT] for item in items):
            return None
        if not new and file.is_file():
            return Patch.load(file)
        ready = job.ahead.steps.get(items[0].id) if len(self.items) == 1 else None
        step = ready or make_step(job.method, [item.record for item in items], before=before)
        if step.patch and len(self.items) > 1:  # one record is edited again sooner than its patch is kept
            step.patch.save(file)
        self.job.folder.append(edit_entry(item, step) for item in new)
        return step.patch

    def _score(self, scoring: Scoring, items: Sequence[Item], patch: Patch | None) -> None:
        phase = phase_of(scoring)
        new = [item for item in items if (item.id, phase) not in self.job.done]
        ready = self.job.ahead.scores.get(new[0].id) if len(self.items) == len(new) == 1 and patch else None
        if ready:
            self.job.folder.append([entry_of(new[0], phase, sections={phase: ready})])
        if ready or not new:
            return
        for some in _chunks(items):  # whole ones, so that a run that goes on rounds as one that was never stopped
            wanted = {item.id for item in some} & {item.id for item in new}
            entries = self._scored(patch, some, phase) if wanted else []
            self.job.folder.append(entry for entry in entries if entry.id in wanted and self._counts(entry))
        if len(self.items) == 1 and not self._counts(entries[0]):
            (unedited,) = self._scored(None, new, phase)
            self.job.folder.append([unedited.model_copy(update={"error": entries[0].error})])

    def _counts(self, entry: Entry) -> bool:
        """Whether an entry is one of its record; a model that one edit broke is as good as none."""
        return entry.error is None or len(self.items) > 1

    def _edited(self, patch: Patch | None) -> AbstractContextManager[LanguageModel]:
        return patch.applied(self.job.model) if patch else nullcontext(self.job.model)

    def _scored(self, patch: Patch | None, items: Sequence[Item], phase: str) -> list[Entry]:
        """The items' scores, all at once; where that fails, each alone, so that a failure is one item's."""
        try:
            known = self.job.unedited.sections(self.job.model, {item.id: item.case for item in items})
            pairs = [(item.case, known[item.id]) for item in items]
            with self._edited(patch) as model:
                sections = in_halves(partial(_compared, model), pairs)
        except FAILURES as error:
            if len(items) == 1:
                return [entry_of(items[0], phase, error=said(error))]
            return [entry for item in items for entry in self._scored(patch, [item], phase)]
        return [entry_of(item, phase, sections={phase: own}) for item, own in zip(items, sections, strict=True)]

    def _find_general(self, edits: int, patch: Patch | None) -> None:
        job = self.job
        if job.general is None or (self.number, edits) in job.points:
            return
        scores, error = dict[str, float | None](), None
        find = general_scores if patch else job.unedited.general
        try:
            with self._edited(patch) as model:
                (scores,) = in_halves(lambda texts: [find(model, text) for text in texts], [job.general])
        except FAILURES as fault:
            error = said(fault)
        job.folder.append_point(Point(sequence=self.number, edits=edits, scores=scores, error=error))


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER))


def _compared(model: LanguageModel, pairs: Sequence[tuple[Case, Section]]) -> Sequence[Section]:
    return score_cases(model, [case for case, _ in pairs], before=[before for _, before in pairs])
