"""Run one sequence of edits: score the unedited model, make the edits step by step, and score on the way and at the
end.

`step` makes the patch of each step. Records that are each edited alone are edited and scored many at a time, with the
same scores (`Ahead`). If that fails, each record is done alone, which shows which one failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

from kg_edit.evaluate.case import Case
from kg_edit.evaluate.cost import Cost, measured
from kg_edit.evaluate.general_tasks import DocumentScores
from kg_edit.evaluate.records import (
    BASE,
    EDIT,
    EDITED,
    Done,
    Entry,
    Item,
    Point,
    Points,
    RunFolder,
    Section,
    missing_phases,
    missing_points,
    phase_of,
)
from kg_edit.evaluate.retention import Reply
from kg_edit.evaluate.schedule import Scoring
from kg_edit.evaluate.scorer import UneditedScores, broken, ceiling_cases, in_halves, score_cases
from kg_edit.evaluate.settings import EditsEach, Method, RunOptions
from kg_edit.evaluate.step import FAILURES, StepOutcome, finite, make_step, said
from kg_edit.evaluate.step_files import StepFiles
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.perplexity import general_scores

TOGETHER = 16  # records to edit, score and write together, at most; more would hardly be faster


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """Steps and scores that were computed before a record's turn, by its id."""

    steps: dict[str, StepOutcome] = field(default_factory=dict)
    scores: dict[str, Section] = field(default_factory=dict)


def ahead_of(
    method: Method,
    model: LanguageModel,
    unedited: UneditedScores,
    items: Sequence[Item],
    done: Done,
    *,
    ceilings: bool,
) -> Ahead:
    """Edit and score, together, the items that are not done yet, each alone on the unedited model.

    The unedited model's scores are kept.
    """
    ahead = Ahead()
    new = [item for item in items if (item.id, EDITED) not in done and not done.get((item.id, BASE))]
    keep_unedited(model, unedited, new, done, ceilings=ceilings)
    if isinstance(method, EditsEach):
        single = [item for item in new if len(item.record.edits) == 1]
        _tried(lambda: ahead.steps.update(_edited(method, single)))
    made = [item for item in new if item.id in ahead.steps and ahead.steps[item.id].patch]
    _tried(lambda: ahead.scores.update(_scored(model, unedited, made, ahead)))
    return ahead


def keep_unedited(
    model: LanguageModel, unedited: UneditedScores, items: Sequence[Item], done: Done, *, ceilings: bool
) -> None:
    """Score the ``items`` that are not scored yet on the unedited model, all at once; ``unedited`` keeps the scores."""
    new = [item for item in items if (item.id, BASE) not in done]
    _tried(lambda: unedited.sections(model, dict(_unedited_cases(new, ceilings=ceilings))))


def _unedited_cases(items: Sequence[Item], *, ceilings: bool) -> Iterator[tuple[str, Case]]:
    for item in items:
        yield f"{item.id}/{BASE}", item.case
        if ceilings:
            yield from ((f"{item.id}/{name}", case) for name, case in ceiling_cases(item.case).items())


def _edited(method: EditsEach, items: Sequence[Item]) -> Iterator[tuple[str, StepOutcome]]:
    with measured() as cost:
        results = in_halves(method.edit_each, [item.record.edits[0] for item in items]) if items else []
    cost.seconds /= max(1, len(items))
    for item, result in zip(items, results, strict=True):
        yield item.id, _step(item, result, cost)


def _step(item: Item, result: Patch | Exception, cost: Cost) -> StepOutcome:
    if isinstance(result, Patch):
        try:
            return StepOutcome(patch=finite(result), seconds=cost.seconds, memory=cost.memory)
        except FAILURES as error:
            result = error
    return StepOutcome(errors={item.id: said(result)})


def _scored(
    model: LanguageModel, unedited: UneditedScores, items: Sequence[Item], ahead: Ahead
) -> Iterator[tuple[str, Section]]:
    before = unedited.sections(model, {item.id: item.case for item in items})

    def score(some: Sequence[Item]) -> Sequence[Section]:
        return score_cases(
            model,
            [item.case for item in some],
            before=[before[item.id] for item in some],
            patches=[ahead.steps[item.id].patch for item in some],
        )

    sections = in_halves(score, items) if items else []
    yield from ((item.id, section) for item, section in zip(items, sections, strict=True))


def _tried(work: Callable[[], object]) -> None:
    try:
        work()
    except FAILURES:
        return  # each record is tried again alone, in its own turn


def edit_entry(item: Item, step: StepOutcome) -> Entry:
    """The entry of an item's edit, which was made in ``step``."""
    if error := step.errors.get(item.id):
        return entry_of(item, EDIT, error=error)
    made = entry_of(item, EDIT)
    return made.model_copy(update={"seconds": step.seconds, "memory": step.memory, "batch": step.halved_to})


def entry_of(
    item: Item,
    phase: str,
    *,
    error: str | None = None,
    choices: tuple[tuple[str, ...], ...] = (),
    sections: Mapping[str, Section] | None = None,
) -> Entry:
    """The entry of an item in a phase: its scores, or the error."""
    return Entry(
        id=item.id,
        phase=phase,
        sha256=item.sha256,
        error=error,
        choices=choices,
        sections=dict(sections or {}),
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all sequences of a run share, including what was done before this start."""

    method: Method
    model: LanguageModel
    folder: RunFolder
    options: RunOptions
    unedited: UneditedScores
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
        """Whether all phases of its records, and all points of general ability, are recorded."""
        job, ids, plan = self.job, [item.id for item in self.items], self.job.options.plan
        points = missing_points(plan, self.number, len(ids), job.points) if job.options.has_points else ()
        return not any(True for _ in (*missing_phases(plan, ids, job.done), *points))

    def run(self, after_step: Callable[[int], object] = lambda _: None) -> None:
        """Do what is missing; ``after_step`` gets the number of records of each step.

        A failed edit leaves the model unchanged, and its record is scored on that model.

        Raises:
            OutputError: a result can't be written; all earlier results are kept.
        """
        usable = self._usable()
        self._find_general(0, None)
        files = StepFiles(self.job.folder, self.number)
        summed, patch = files.summed(self._known_steps(usable))
        for step, scoring in enumerate(self.job.options.plan.scorings(len(self.items))):
            if step >= summed:
                patch = self._step(step, scoring, patch, usable=usable, files=files)
            after_step(len(scoring.step))

    def _known_steps(self, usable: Collection[str]) -> int:
        """The number of steps, from the first one on, of which every result is recorded."""
        scorings = self.job.options.plan.scorings(len(self.items))
        return sum(1 for _ in takewhile(lambda scoring: self._is_known(scoring, usable), scorings))

    def _is_known(self, scoring: Scoring, usable: Collection[str]) -> bool:
        job, phase = self.job, phase_of(scoring)
        edited, scored = ([self.items[place].id for place in places] for places in (scoring.step, scoring.places))
        wanted = [*((name, EDIT) for name in edited), *((name, phase) for name in scored)]
        has_point = not (scoring.on_curve and job.options.has_points) or (self.number, scoring.edits) in job.points
        return has_point and all(key in job.done for key in wanted if key[0] in usable)

    def _step(
        self, number: int, scoring: Scoring, before: Patch | None, *, usable: Collection[str], files: StepFiles
    ) -> Patch | None:
        """Make the edits of a step and score them; the patch of all edits so far."""
        edited, scored = (
            [self.items[place] for place in places if self.items[place].id in usable]
            for places in (scoring.step, scoring.places)
        )
        update = self._make(number, edited, before, files)
        patch = before + update if before and update else update or before
        self._score(scoring, scored, patch)
        if scoring.on_curve:
            self._find_general(scoring.edits, patch)
        if update and patch:
            files.sum_up(number + 1, patch)
        return patch

    def _usable(self) -> set[str]:
        """Score the unedited model on the records that are scored at all; return the ids of those to edit."""
        ids = {item.id for item in self.items}
        asked = set(self.job.options.plan.scored([item.id for item in self.items]))
        wanted = [item for item in self.items if item.id in asked]
        return (ids - asked) | {item.id for some in _chunks(wanted) for item in self._bases(some)}

    def _bases(self, items: Sequence[Item]) -> list[Item]:
        """Score the items on the unedited model, at once if possible; return the items without an error."""
        if len(self.items) > 1:
            keep_unedited(self.job.model, self.job.unedited, items, self.job.done, ceilings=self.job.options.ceilings)
        return [item for item in items if self._base(item)]

    def _base(self, item: Item) -> bool:
        """Score the item on the unedited model; return whether that succeeded."""
        key = (item.id, BASE)
        if key in self.job.done:
            return self.job.done[key] is None
        cases = {BASE: item.case, **(ceiling_cases(item.case) if self.job.options.ceilings else {})}
        try:
            sections = self.job.unedited.sections(self.job.model, cases)
        except FAILURES as error:
            self.job.folder.append([entry_of(item, BASE, error=said(error), choices=item.case.choices)])
            return False
        self.job.folder.append([entry_of(item, BASE, sections=sections, choices=item.case.choices)])
        return True

    def _make(self, number: int, items: Sequence[Item], before: Patch | None, files: StepFiles) -> Patch | None:
        """The patch of step ``number``: loaded if it was saved, else made; None if none of its edits can be made."""
        job = self.job
        new = [item for item in items if (item.id, EDIT) not in job.done]
        if not new and all(job.done[item.id, EDIT] for item in items):
            return None
        if not new and (saved := files.load(number)):
            return saved
        ready = job.ahead.steps.get(items[0].id) if len(self.items) == 1 else None
        step = ready or make_step(job.method, [item.record for item in items], before=before)
        if step.patch and len(self.items) > 1:  # for one record, editing again is cheaper than storing its patch
            files.save(number, step.patch)
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
        for some in _chunks(items):  # whole chunks: a resumed run then rounds like an uninterrupted one
            wanted = {item.id for item in some} & {item.id for item in new}
            entries = self._scored(patch, some, phase) if wanted else []
            self.job.folder.append(entry for entry in entries if entry.id in wanted)

    def _edited(self, patch: Patch | None) -> AbstractContextManager[LanguageModel]:
        return patch.applied(self.job.model) if patch else nullcontext(self.job.model)

    def _scored(self, patch: Patch | None, items: Sequence[Item], phase: str) -> list[Entry]:
        """Score the items all at once; if that fails, each alone, so that an error belongs to one item.

        An item that the edited model can't be scored on, because its edits broke it, gets `broken` scores.
        """
        try:
            known = self.job.unedited.sections(self.job.model, {item.id: item.case for item in items})
            pairs = [(item.case, known[item.id]) for item in items]
            with self._edited(patch) as model:
                sections = in_halves(partial(_compared, model), pairs)
        except FAILURES as error:
            if len(items) == 1:
                return [entry_of(items[0], phase, error=said(error), sections={phase: broken(items[0].case)})]
            return [entry for item in items for entry in self._scored(patch, [item], phase)]
        return [entry_of(item, phase, sections={phase: own}) for item, own in zip(items, sections, strict=True)]

    def _find_general(self, edits: int, patch: Patch | None) -> None:
        job = self.job
        if not job.options.has_points or (self.number, edits) in job.points:
            return
        asked = job.model.in_chat() if job.options.chat else job.model
        before = job.unedited.replies(asked, job.options.retention) if job.options.retention else []
        scores, tasks, error = dict[str, float | None](), dict[str, DocumentScores](), None
        try:
            with self._edited(patch) as model:
                tasks = job.options.tasks.scores(model, edited=patch is not None) if job.options.tasks else {}
                values = {name: found.value for name, found in tasks.items()}
                scores = {**self._general(model, patch), **values, **self._retention(model, edits, before)}
        except FAILURES as fault:
            error = said(fault)
        job.folder.append_point(Point(sequence=self.number, edits=edits, scores=scores, tasks=tasks, error=error))

    def _general(self, model: LanguageModel, patch: Patch | None) -> dict[str, float | None]:
        """General ability of the model with ``patch`` applied."""
        if self.job.options.general is None:
            return {}
        find = general_scores if patch else self.job.unedited.general
        (scores,) = in_halves(lambda texts: [find(model, text) for text in texts], [self.job.options.general])
        return scores

    def _retention(self, model: LanguageModel, edits: int, before: Sequence[Reply]) -> dict[str, float | None]:
        """GRACE's retention rates of the model with the edits of the first ``edits`` records."""
        if self.job.options.retention is None:
            return {}
        made = [edit for item in self.items[:edits] for edit in item.record.edits]
        return self.job.options.retention.scores(model, made, before=before, chat=self.job.options.chat)


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER))


def _compared(model: LanguageModel, pairs: Sequence[tuple[Case, Section]]) -> Sequence[Section]:
    return score_cases(model, [case for case, _ in pairs], before=[before for _, before in pairs])
