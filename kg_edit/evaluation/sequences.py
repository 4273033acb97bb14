"""The loop of an evaluation: edit the records of sequences step by step, and score them after each step.

A sequence's edits accumulate in the model. `SequenceRun.advance` does what is missing of one sequence, or of several
records that are edited alone, side by side: it asks the unedited model, then for each step computes the patch, scores
the model with it, and appends a line for each record. The methods of `SequenceRun` are in the order in which `advance`
calls them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeVar

from kg_common.progress import Bar
from kg_common.terminal import number_of
from kg_edit.callbacks import StepNotes, send_losses
from kg_edit.edits.edit import Edit
from kg_edit.errors import is_memory_error
from kg_edit.evaluation.case import Case, make_ceiling_cases
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.general_tasks import DocumentScores
from kg_edit.evaluation.memory import in_halves, make_memory_error, release
from kg_edit.evaluation.records import (
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
    StepFiles,
    list_missing_phases,
    list_missing_points,
    name_phase,
)
from kg_edit.evaluation.retention import RetentionAnswer
from kg_edit.evaluation.schedule import Scoring
from kg_edit.evaluation.scorer import UneditedScores, add_cosines, answer_seconds, score_broken, score_cases
from kg_edit.evaluation.step import (
    FAILURES,
    EditsEach,
    Method,
    StepOutcome,
    add_patches,
    describe_failure,
    edit_each_alone,
    edit_step,
)
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.perplexity import general_scores

TOGETHER = 16  # records to edit, score and write together, at most; on a CPU more would hardly be faster
FEWEST = 4  # records to edit together at the beginning of a run, of which a kill loses at most so many
_ON_ACCELERATOR = 4  # times as many there, where a pass of few records takes as long as one of many
HELD = 2_500_000_000  # bytes that the patches of records that are edited together may take

log = logging.getLogger(__name__)
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class RecordSequence:
    """Records whose edits accumulate in the model; under the schedule ``single`` it is one record."""

    number: int
    items: Sequence[Item]

    @property
    def ids(self) -> list[str]:
        """The ids of its records."""
        return [item.id for item in self.items]


class _Lines:
    """The lines of records, written at once; or held until it is their record's turn.

    They are held if several records are computed together: a file has the same lines in the same order, however many
    records are, and in however many shards.
    """

    def __init__(self, folder: RunFolder, *, held: bool) -> None:
        self._folder = folder
        self._held: dict[str, list[Entry]] | None = None
        if held:
            self._held = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Write entries, or hold them."""
        if self._held is None:
            self._folder.append(entries)
            return
        for entry in entries:
            self._held.setdefault(entry.id, []).append(entry)

    def write(self, ids: Iterable[str]) -> None:
        """Write what is held of some records."""
        if self._held is None:
            return
        entries = list[Entry]()
        for name in ids:
            entries += self._held.pop(name, [])
        self._folder.append(entries)


class _Scored(NamedTuple):
    """A record to be scored, and the patch of the model on which it is."""

    item: Item
    patch: Patch | None


@dataclass
class _Progress:
    """Where a sequence stands: the patch of all its edits so far, and what an earlier start has recorded.

    The first ``recorded_steps`` steps have all their results. Dense patches of the first ``summed_steps`` steps, which
    are at most as many, are one file, their sum.
    """

    sequence: RecordSequence
    files: StepFiles
    recorded_steps: int
    summed_steps: int
    patch: Patch | None


@dataclass
class _Group:
    """Sequences of the same length that are advanced together.

    ``failed`` are the ids of the records that even the unedited model can't be scored on; they are not edited.
    ``label`` begins the bar's notes about them.
    """

    progress: list[_Progress]
    failed: set[str]
    lines: _Lines
    bar: Bar
    label: str

    def usable_items(self, sequence: RecordSequence, indices: Iterable[int]) -> list[Item]:
        """Return some records of a sequence, without those that failed."""
        items = [sequence.items[index] for index in indices]
        return [item for item in items if item.id not in self.failed]

    def note(self, text: str) -> None:
        """Show on the bar what is being done."""
        self.bar.note(f"{self.label}{text}")


@dataclass
class _Ability:
    """The general ability of a model: its scores, and those of each document of the tasks."""

    scores: dict[str, float | None]
    tasks: dict[str, DocumentScores]


@dataclass(frozen=True)
class SequenceRun:
    """A run: its inputs, its folder, and what was done before this start."""

    method: Method
    model: LanguageModel
    config: EvalConfig
    folder: RunFolder
    unedited: UneditedScores
    done: Done
    points: Points

    def is_done(self, sequence: RecordSequence) -> bool:
        """Return whether all phases of its records, and all points of general ability, are recorded."""
        plan = self.config.plan
        if list(list_missing_phases(plan, sequence.ids, self.done)):
            return False
        if not self.config.has_points:
            return True
        return not list(list_missing_points(plan, sequence.number, len(sequence.items), self.points))

    @property
    def most_together(self) -> int:
        """How many records are edited, scored and written together, at most."""
        if self.model.device.type == "cpu":
            return TOGETHER
        return TOGETHER * _ON_ACCELERATOR

    def choose_group_size(self, done: int, largest: int) -> int:
        """Return how many of the next sequences are computed together.

        Sequences of several records are computed one by one, and so are records by a method that makes one edit a call.
        Of other records that are edited alone, a group has as many as are done, at least `FEWEST` and at most
        `TOGETHER`: 4, 4, 8, 16, 16, … A short run loses little when it is killed, and a long run loses no speed: a
        record in a group of sixteen takes 0.7 of the time of one in a group of four. On an accelerator both limits are
        `_ON_ACCELERATOR` times as high. The patches of a group take `HELD` bytes at most, or the group has one record.

        Args:
            done: number of sequences that are done.
            largest: bytes of the largest patch so far, 0 where none is known.
        """
        if self.config.plan.schedule.sequence > 1 or not isinstance(self.method, EditsEach):
            return 1
        fewest = FEWEST * self.most_together // TOGETHER
        if largest == 0:  # a patch is then assumed to be as large as the model
            largest = sum(weight.nbytes for weight in self.model.model.parameters())
        size = min(max(fewest, done), self.most_together, HELD // largest)
        return max(1, size)

    def advance(self, sequences: Sequence[RecordSequence], bar: Bar) -> int:
        """Do what is missing of sequences of the same length, step by step, and return the size of their largest patch.

        A failed edit leaves the model unchanged, and its record is scored on that model.
        """
        plan = self.config.plan
        is_single = plan.schedule.sequence == 1
        label = ""
        if is_single:
            label = _label(sequences, bar)
        lines = _Lines(self.folder, held=is_single)
        # General ability comes first: a text or task that can't be used is found before any record.
        self._measure_point(sequences[0], 0, None, bar)
        bar.phase("unedited model", sum(len(sequence.items) for sequence in sequences))
        bar.note(f"{label}unedited model")
        failed = self._score_unedited(self._scored_items(sequences), lines)

        scorings = list(plan.scorings(len(sequences[0].items)))
        progress = [self._resume(sequence, scorings, failed) for sequence in sequences]
        group = _Group(progress=progress, failed=failed, lines=lines, bar=bar, label=label)
        largest = 0
        for number, scoring in enumerate(scorings):
            largest = max(largest, self._advance_step(group, number, scoring))
        return largest

    def _advance_step(self, group: _Group, number: int, scoring: Scoring) -> int:
        """Edit, score and write step ``number`` of each sequence; return the size of its largest patch.

        What an earlier start has recorded of the step is loaded instead of computed; a step in a file with a sum is
        done altogether.
        """
        new_count = 0  # sequences of which something is missing
        to_do: list[_Progress] = []
        for state in group.progress:
            if number >= state.recorded_steps:
                new_count += 1
            if number >= state.summed_steps:
                to_do.append(state)
        new_records = new_count * len(scoring.step)
        old_records = (len(group.progress) - new_count) * len(scoring.step)

        if new_records:
            group.bar.phase("editing", new_records)
            group.note("editing")
        updates = self._edit(group, to_do, number, scoring)
        to_score = self._list_to_score(group, to_do, scoring)
        if new_records and to_score:
            group.bar.phase("edited model", new_records)
            group.note(f"edited model, {len(to_score)} to score")
        self._score(group, to_score, name_phase(scoring))
        for state in to_do:
            self._end_step(group, state, number, scoring, updates[state.sequence.number])

        if old_records:
            group.bar.skip(old_records)
        if new_records:  # counted together, as they were computed together: one by one, the first is slow
            group.bar.update(new_records)
        return max((patch.nbytes for patch in updates.values() if patch), default=0)

    def _end_step(self, group: _Group, state: _Progress, number: int, scoring: Scoring, update: Patch | None) -> None:
        """Write the lines and the points of a sequence's step, and sum its patches up where that saves space.

        Args:
            group: the sequences that are advanced together.
            state: one of them.
            number: the step, from 0.
            scoring: the records of the step, and those to score after it.
            update: the patch of the step; None if no edit succeeded.
        """
        group.lines.write(state.sequence.ids)
        if number == 0 and state is not group.progress[0]:  # the point of the first sequence came before all
            self._measure_point(state.sequence, 0, None, group.bar)
        if scoring.on_curve:
            self._measure_point(state.sequence, scoring.edits, state.patch, group.bar)
        if update and state.patch:
            state.files.sum_up(number + 1, state.patch)

    def _scored_items(self, sequences: Sequence[RecordSequence]) -> list[Item]:
        """Return the records that are scored: with a sample, not all are."""
        scored = []
        for sequence in sequences:
            ids = set(self.config.plan.scored(sequence.ids))
            scored += [item for item in sequence.items if item.id in ids]
        return scored

    def _resume(self, sequence: RecordSequence, scorings: Sequence[Scoring], failed: set[str]) -> _Progress:
        """Return where a sequence stands after earlier starts."""
        recorded = 0
        while recorded < len(scorings) and self._is_recorded(sequence, scorings[recorded], failed):
            recorded += 1
        files = StepFiles(self.folder, sequence.number)
        summed, patch = files.load_sum(recorded)
        if 0 < recorded < len(scorings):
            where = f"{self.folder.path}, sequence {sequence.number}"
            log.info("%s resumes after %d of %d records", where, scorings[recorded - 1].edits, len(sequence.items))
        return _Progress(sequence, files, recorded, summed, patch)

    def _is_recorded(self, sequence: RecordSequence, scoring: Scoring, failed: set[str]) -> bool:
        """Return whether every result of a step is recorded."""
        needs_point = scoring.on_curve and self.config.has_points
        if needs_point and (sequence.number, scoring.edits) not in self.points:
            return False
        ids = sequence.ids
        needed = [(ids[index], EDIT) for index in scoring.step]
        needed += [(ids[index], name_phase(scoring)) for index in scoring.indices]
        return all((name, phase) in self.done for name, phase in needed if name not in failed)

    def ask_unedited(self, batch: Sequence[Item]) -> None:
        """Score the unedited model on the items that have no line yet, all at once; the scores are stored."""
        cases = dict[str, Case]()
        for item in batch:
            if (item.id, BASE) not in self.done:
                for name, case in self._unedited_cases(item).items():
                    cases[f"{item.id}/{name}"] = case
        with suppress(*FAILURES):  # each record is then scored alone, so that the error belongs to one of them
            self.unedited.sections(cases)

    def _unedited_cases(self, item: Item) -> dict[str, Case]:
        """Return what the unedited model is asked about a record: its case, and the ceilings."""
        cases = {BASE: item.case}
        if self.config.ceilings:
            cases |= make_ceiling_cases(item.case)
        return cases

    def _score_unedited(self, records: Sequence[Item], lines: _Lines) -> set[str]:
        """Write the unedited model's scores; return the ids of the items that it can't be scored on."""
        failed = set()
        for chunk in _split_chunks(records, self.most_together):
            if len(records) > 1:
                self.ask_unedited(chunk)
            for item in chunk:
                key = (item.id, BASE)
                if key in self.done:
                    error = self.done[key]
                else:
                    entry = self._score_unedited_item(item)
                    lines.add([entry])
                    error = entry.error
                if error is not None:
                    failed.add(item.id)
        return failed

    def _score_unedited_item(self, item: Item) -> Entry:
        """Return the line of the unedited model's scores of a record, or of the error."""
        sections: dict[str, Section] = {}
        error = None
        try:
            sections = self.unedited.sections(self._unedited_cases(item))
        except FAILURES as fault:
            error = describe_failure(fault)
        return Entry(
            id=item.id,
            phase=BASE,
            sha256=item.sha256,
            error=error,
            choices=item.case.choices,
            sections=sections,
        )

    def _edit(
        self, group: _Group, progress: Sequence[_Progress], number: int, scoring: Scoring
    ) -> dict[int, Patch | None]:
        """Compute the patch of step ``number`` of each sequence, and add it to those of the earlier steps.

        Returns:
            By the number of the sequence, the patch of this step; None if none of its edits succeeds.
        """
        batches = {state.sequence.number: group.usable_items(state.sequence, scoring.step) for state in progress}
        alone: dict[str, StepOutcome] = {}
        if self.config.plan.schedule.sequence == 1:
            alone = self._edit_each(list(chain.from_iterable(batches.values())), group.note)
        updates = {}
        for state in progress:
            batch = batches[state.sequence.number]
            outcome = None
            if batch:  # it is one record where records are edited alone; elsewhere ``alone`` is empty
                outcome = alone.get(batch[0].id)
            update = self._make_update(state, number, batch, outcome, group.lines)
            # The patch is that of all edits so far; a step without a success changes nothing.
            state.patch = add_patches(state.patch, update)
            updates[state.sequence.number] = update
        return updates

    def _edit_each(self, batch: Sequence[Item], note: Callable[[str], None]) -> dict[str, StepOutcome]:
        """Edit records in one call, each alone on the unedited model; the outcomes by the record's id.

        If the call fails, there are none: each record is then edited by a call of its own, so that the error belongs to
        one of them.
        """
        if not isinstance(self.method, EditsEach):
            return {}
        new = [item for item in batch if (item.id, EDITED) not in self.done]
        with_one_edit = [item.record for item in new if len(item.record.edits) == 1]
        with send_losses([StepNotes(note)], [item.id for item in new]), suppress(*FAILURES):
            return edit_each_alone(self.method, with_one_edit)
        return {}

    def _make_update(
        self, state: _Progress, number: int, batch: Sequence[Item], outcome: StepOutcome | None, lines: _Lines
    ) -> Patch | None:
        """Load the patch of step ``number`` if it was saved, else compute it; None if none of its edits succeeds.

        Args:
            state: the sequence, with the patch of its earlier steps.
            number: the step, from 0.
            batch: the records of the step that can be edited.
            outcome: the outcome of a record that was already edited together with others; else None.
            lines: gets the lines of the edits that are not recorded yet.
        """
        new = [item for item in batch if (item.id, EDIT) not in self.done]
        if not new:  # an earlier start has edited all of them
            errors = [self.done[item.id, EDIT] for item in batch]  # None for an edit that succeeded
            if all(errors):
                return None
            saved = state.files.load(number)
            if saved:
                return saved
        step = outcome or edit_step(self.method, [item.record for item in batch], before=state.patch)
        if len(state.sequence.items) > 1:  # for one record, editing again is cheaper than storing its patch
            state.files.save(number, step.patch)
        lines.add(_make_edit_entry(item, step) for item in new)
        return step.patch

    def _list_to_score(self, group: _Group, progress: Sequence[_Progress], scoring: Scoring) -> list[_Scored]:
        """Return the records that a scoring asks about, each with the patch of its sequence."""
        to_score: list[_Scored] = []
        for state in progress:
            items = group.usable_items(state.sequence, scoring.indices)
            to_score += [_Scored(item, state.patch) for item in items]
        return to_score

    def _score(self, group: _Group, to_score: Sequence[_Scored], phase: str) -> None:
        """Score records, each on the model with its patch, and write the lines that are missing."""
        for chunk in _split_chunks(to_score, self.most_together):
            missing = {scored.item.id for scored in chunk if (scored.item.id, phase) not in self.done}
            if missing:
                # Whole chunks are scored, so that a resumed run rounds like an uninterrupted one.
                entries = self._score_chunk(chunk, phase)
                group.lines.add([entry for entry in entries if entry.id in missing])

    def _score_chunk(self, chunk: Sequence[_Scored], phase: str) -> list[Entry]:
        """Score records all at once; if that fails, each alone, so that an error belongs to one record.

        A record that the edited model can't be scored on, because its edits broke it, gets those of `score_broken`.
        """
        entries = list[Entry]()
        try:
            sections = self._score_sections(chunk)
            for scored, section in zip(chunk, sections, strict=True):
                entries.append(self._make_entry(scored.item, phase, section, scored.patch))
            return entries
        except FAILURES as error:
            if len(chunk) == 1:
                return [self._make_broken_entry(chunk[0].item, phase, error)]
        entries = []
        for scored in chunk:
            entries += self._score_chunk([scored], phase)
        return entries

    def _make_broken_entry(self, item: Item, phase: str, error: Exception) -> Entry:
        """Return the line of a record that the edited model can't be scored on."""
        unedited = self.unedited.sections({item.id: item.case})[item.id]
        zeros = score_broken(item.case, unedited)
        line = describe_failure(error)
        return Entry(id=item.id, phase=phase, sha256=item.sha256, error=line, sections={phase: zeros})

    def _score_sections(self, chunk: Sequence[_Scored]) -> list[Section]:
        """Score records, each on the model with its patch."""
        cases = [scored.item.case for scored in chunk]
        before = self.unedited.sections({scored.item.id: scored.item.case for scored in chunk})
        shared_patch = chunk[0].patch
        if shared_patch is not None and all(scored.patch is shared_patch for scored in chunk):
            with self._apply(shared_patch) as model:
                sections = _score_in_halves(model, chunk, before, with_own_patches=False)
        else:
            sections = _score_in_halves(self.model, chunk, before, with_own_patches=True)
        return add_cosines(self.model, cases, sections)

    def _make_entry(self, item: Item, phase: str, section: Section, patch: Patch | None) -> Entry:
        """Return the line of an item's scores; at the end of its sequence also the seconds of an answer, if asked."""
        seconds = None
        if self.config.time_answers and phase == EDITED and patch:
            prompt = item.case.edit.text
            model = self.model.in_chat(chat=item.case.chat)
            unedited = answer_seconds(model, prompt)
            with patch.applied(model) as edited:
                seconds = unedited, answer_seconds(edited, prompt)
        sections = {phase: section}
        return Entry(id=item.id, phase=phase, sha256=item.sha256, answer_seconds=seconds, sections=sections)

    def _apply(self, patch: Patch | None) -> AbstractContextManager[LanguageModel]:
        """Return the model with a patch, within a ``with`` block."""
        if patch is None:
            return nullcontext(self.model)
        return patch.applied(self.model)

    def _measure_point(self, sequence: RecordSequence, edits: int, patch: Patch | None, bar: Bar) -> None:
        """Measure perplexity, tasks and retention after the first ``edits`` records, and write the point."""
        config = self.config
        if not config.has_points or (sequence.number, edits) in self.points:
            return
        bar.note(_describe_point(config, edits))
        replies_before: list[RetentionAnswer] = []
        if config.retention:  # asked here, where no patch is applied yet
            replies_before = self.unedited.replies(config.retention, chat=bool(config.chat))
        ability = _Ability(scores={}, tasks={})
        problem: Exception | None = None
        try:
            self._measure_ability(ability, sequence.items[:edits], patch, replies_before)
        except FAILURES as error:
            problem = error
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            problem = make_memory_error(error)
            release()
        if problem and edits == 0:  # no edit has broken the unedited model: the text or the tasks can't be used
            raise problem
        error_line = None
        if problem:
            ability.scores = {}
            error_line = describe_failure(problem)
        point = Point(
            sequence=sequence.number, edits=edits, scores=ability.scores, tasks=ability.tasks, error=error_line
        )
        self.folder.append_point(point)

    def _measure_ability(
        self,
        ability: _Ability,
        items: Sequence[Item],
        patch: Patch | None,
        replies_before: Sequence[RetentionAnswer],
    ) -> None:
        """Add tasks, perplexity and retention to ``ability``; where the model fails, what came before stays.

        Args:
            ability: what is measured.
            items: the records that are edited so far.
            patch: the patch of their edits; None for the unedited model.
            replies_before: the unedited model's replies to the prompts of retention.
        """
        config = self.config
        with self._apply(patch) as model:
            self._ask_tasks(ability.tasks, model, patch)
            ability.scores |= self._score_text(model, patch)
            for name, score in ability.tasks.items():
                ability.scores[name] = score.value
            if config.retention:
                edits = _list_edits(items)
                ability.scores |= config.retention.scores(model, edits, before=replies_before, chat=config.chat)

    def _ask_tasks(self, tasks: dict[str, DocumentScores], model: LanguageModel, patch: Patch | None) -> None:
        """Add the scores of the tasks and of the quick sets to ``tasks``, where they stay if the model fails later."""
        if self.config.tasks:
            tasks |= self.config.tasks.scores(model, edited=patch is not None)
        if self.config.quick and patch:
            tasks |= self.config.quick.scores(model)
        elif self.config.quick:
            tasks |= self.unedited.quick(self.config.quick)

    def _score_text(self, model: LanguageModel, patch: Patch | None) -> dict[str, float | None]:
        """Return the perplexity on the text, if the run has one."""
        if self.config.general is None:
            return {}
        if patch:
            return general_scores(model, self.config.general)
        return self.unedited.general(self.config.general)


def _score_in_halves(
    model: LanguageModel, chunk: Sequence[_Scored], before: Mapping[str, Section], *, with_own_patches: bool
) -> list[Section]:
    """Score records at once, or in smaller parts where the memory does not suffice.

    Args:
        model: the model.
        chunk: the records.
        before: the unedited model's scores of each record, by its id.
        with_own_patches: whether each record is scored with its own patch; else on the model as it is.
    """

    def score(part: Sequence[_Scored]) -> Sequence[Section]:
        cases = [scored.item.case for scored in part]
        before_edit = [before[scored.item.id] for scored in part]
        own_patches = None
        if with_own_patches:
            own_patches = [scored.patch for scored in part]
        return score_cases(model, cases, before=before_edit, patches=own_patches)

    return in_halves(score, chunk)


def _describe_point(config: EvalConfig, edits: int) -> str:
    """Return what is measured at a point, for the bar: "edited model, general ability, 20 prompts of retention"."""
    which = "unedited"
    if edits:
        which = "edited"
    words = f"{which} model, general ability"
    if config.retention:
        words += f", {number_of(len(config.retention.queries), 'prompt')} of retention"
    return words


def _list_edits(items: Sequence[Item]) -> list[Edit]:
    edits = list[Edit]()
    for item in items:
        edits += item.case.edits
    return edits


def _label(sequences: Sequence[RecordSequence], bar: Bar) -> str:
    """Return the beginning of the notes about records that are edited alone: "records 5 to 8, "."""
    first = bar.n + 1
    last = bar.n + len(sequences)
    if first == last:
        return f"record {first}, "
    return f"records {first} to {last}, "


def _make_edit_entry(item: Item, step: StepOutcome) -> Entry:
    """Return the line of a record's edit: its cost, or its error."""
    error = step.errors.get(item.id)
    if error:
        return Entry(id=item.id, phase=EDIT, sha256=item.sha256, error=error)
    return Entry(
        id=item.id,
        phase=EDIT,
        sha256=item.sha256,
        seconds=step.seconds,
        memory=step.memory,
        batch=step.halved_to,
    )


def _split_chunks(batch: Sequence[Thing], size: int) -> Iterator[Sequence[Thing]]:
    """Yield a sequence in parts of at most ``size``."""
    return (batch[start : start + size] for start in range(0, len(batch), size))
