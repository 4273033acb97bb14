"""Run an evaluation: edit the records of a data set by a method, and score the model before, during and after.

The records form sequences (`kg_edit.evaluation.schedule`); the edits of one sequence accumulate in the model. For each
step of a sequence, a patch is computed, applied and scored, and a line is appended for each record. A run that was
stopped reads its lines first, and does what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import signature
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar, cast

from kg_common.progress import Bar
from kg_common.terminal import number_of
from kg_edit.callbacks import StepNotes, watched
from kg_edit.edits.edit import Edit, refuse_same_ids
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError, did_you_mean, unmade_method
from kg_edit.evaluation.case import Case, ceiling_cases
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import Records, as_records
from kg_edit.evaluation.finish import finish
from kg_edit.evaluation.general_tasks import DocumentScores
from kg_edit.evaluation.memory import in_halves, memory_failure, release
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
    found_in,
    items,
    missing_phases,
    missing_points,
    phase_of,
)
from kg_edit.evaluation.schedule import Scoring
from kg_edit.evaluation.scorer import UneditedScores, answer_seconds, broken, score_cases, with_cosines
from kg_edit.evaluation.settings import (
    DataSource,
    environment,
    note_environment,
    read_environments,
    record_settings,
    run_settings,
)
from kg_edit.evaluation.step import (
    FAILURES,
    EditsEach,
    Method,
    StepOutcome,
    added,
    edit_each_alone,
    edit_step,
    failure,
)
from kg_edit.evaluation.summary import Summary
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.patches.base import Patch
from kg_edit.scoring.perplexity import general_scores
from kg_edit.scoring.questions import answers
from kg_edit.storage.run_folder import (
    Settings,
    claim,
    difference,
    digest,
    folder_lock,
    is_run,
    other_rows,
    read_settings,
)

TOGETHER = 16  # records to edit, score and write together, at most; on a CPU more would hardly be faster
FEWEST = 4  # records to edit together at the beginning of a run, of which a kill loses at most so many
_ON_ACCELERATOR = 4  # times as many there, where a pass of few records takes as long as one of many
HELD = 2_500_000_000  # bytes that the patches of records that are edited together may take

log = logging.getLogger(__name__)
Call = TypeVar("Call", bound=Callable[..., Any])


def hint_config(call: Call) -> Call:
    """Let `evaluate` refuse an unknown option, which most often is a field of `EvalConfig`, by naming ``config=…``.

    Raises:
        ConfigError: the option is unknown.
    """
    options = [*signature(call).parameters]

    @wraps(call)
    def checked(*given: Any, **named: Any) -> Any:
        for name in named.keys() - {*options}:
            if name in EvalConfig.model_fields:
                raise ConfigError(f"{name} is a field of EvalConfig; give config=EvalConfig({name}={named[name]!r})")
            raise ConfigError(f"unknown option {name!r}{did_you_mean(name, options)}; known: {', '.join(options)}")
        return call(*given, **named)

    return cast(Call, checked)


@hint_config
def evaluate(
    method: Method,
    model: LanguageModel | str | Path,
    records: Records,
    *,
    out: str | Path,
    config: EvalConfig | None = None,
    pool: Sequence[Edit | BenchmarkRecord] | None = None,
    data: DataSource | None = None,
) -> Summary:
    """Make the records' edits on ``model``, and score them before and after.

    Writes ``run.json`` (the settings), ``records.jsonl`` (a line for each phase of each record, see `Entry`: every
    score and its evidence), ``general.jsonl`` (the same for general ability), ``environments.jsonl``, the patches of
    sequences and ``summary.json``. If it is started again with the same settings, it resumes, also after ``kill -9``.
    It also resumes if more records were added after the same first ones, of the same ``pool``. A record that fails is
    recorded and counted; its edit leaves the model unchanged.

    Args:
        method: computes the patches, for this ``model``.
        model: the model or its name, asked in evaluation mode; it is the same before and after.
        records: the records to edit and to ask: of a benchmark, edits, rows of their fields, or the path of a file.
        out: the folder of the run.
        config: what is measured, and when; by default each edit alone.
        pool: the records that give the wrong answers of portability.choice; by default ``records``.
        data: the source of the records, for the provenance.

    Returns:
        The means and intervals that ``summary.json`` has.

    Raises:
        ConfigError: two records have the same id, or the method is not made for a model, or for another one.
        ChatTemplateError: an edit is made or asked in chat form, and the tokenizer has no chat template.
        KgEditError: there is no such model, a record can't be read, or the unedited model's general ability can't be
            measured.
        OutputError: ``out`` holds a run with other settings, can't be written, or another process works on it.
    """
    if isinstance(method, str | type):
        raise unmade_method(method)
    config, out = config or EvalConfig(), Path(out)
    model, all_records = as_model(model), as_records(records)
    own = getattr(method, "model", model)
    if own.fingerprint != model.fingerprint:  # every edit would be made, and none could be applied
        of = (
            f"not for {model.name!r}" if own.name != model.name else "to which a patch was merged, or which was trained"
        )
        raise ConfigError(f"{method.name} is made for {own.name!r}, {of}; make it for this model")
    refuse_same_ids("records", (record.id for record in all_records))
    choices = answers(all_records if pool is None else pool)
    settings = run_settings(method, model, all_records, config, pool=tuple(choices.values()), data=data)
    if config.retention:
        config.retention.check(model.in_chat() if config.chat else model)
    grown = _grown_from(out, settings, model, all_records, config)
    unrecorded = getattr(method.config, "unrecorded", {})
    with suppress(OSError):  # `claim` then raises the error with its reason
        out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out), untouched(model):
        claim(out, settings, grown=grown, unrecorded=unrecorded, rows=partial(_other_records, out, all_records))
        folder = RunFolder(out)
        folder.drop_cut_lines()
        if config.retry_failed:
            folder.drop_failed()
        run = _Run(method, model, config, folder, UneditedScores(model, settings), *found_in(folder))

        if failed := len({name for (name, _), error in run.done.items() if error is not None}):
            what = number_of(failed, "record")
            log.warning("%s: the errors of %s are from an earlier run; --retry-failed computes them again", out, what)

        # A run may be resumed with other code, since only kg-edit's own version is a setting.
        plug_in, earlier = getattr(method, "plug_in", None), [used.get("plug_in") for used in read_environments(out)]
        edited = {name for name, phase in run.done if phase == EDIT}
        if plug_in and edited and any(used != plug_in for used in earlier):
            affected = "some records" if plug_in in earlier else number_of(len(edited), "record")
            words = "%s: %s were made with other code of the package %s; another --out makes all anew"
            log.warning(words, out, affected, plug_in["package"])

        # A sequence is never split between shards, because its edits share one model.
        size = config.plan.schedule.sequence
        starts = range(0, len(all_records), size)
        parts = [items(all_records[start : start + size], choices, config, model=model) for start in starts]
        sequences = config.part.deal([_Sequence(number, part) for number, part in enumerate(parts)])
        todo = [sequence for sequence in sequences if not run.is_done(sequence)]
        if todo:
            method.prepare()
            note_environment(out, environment(method, model, data))
        total, remaining = (sum(len(sequence.items) for sequence in part) for part in (sequences, todo))
        if 0 < remaining < total:
            log.info("%s has %d of %d records; the others follow", out, total - remaining, total)
        with Bar(title=method.name, unit="record", total=total, done=total - remaining) as bar:
            if size > 1:
                for sequence in todo:
                    run.sequence(sequence, bar)
            else:
                for group in _groups(run, todo, bar):
                    for sequence in group:
                        run.sequence(sequence)
                    bar.update(len(group))  # its records were computed together: counted one by one, the first is slow
        return finish(out)


def _grown_from(
    out: Path, settings: Settings, model: LanguageModel, records: Sequence[BenchmarkRecord], config: EvalConfig
) -> Settings | None:
    """The settings of the run in ``out``, if this run extends it: the same run, whose records are the first of these.

    None if the results of the earlier records could change: for shards, and if the last sequence was not full.
    """
    if config.shard or not is_run(out):
        return None
    stored = read_settings(out)
    ids = stored.get("ids", [])
    extends = isinstance(ids, list) and 0 < len(ids) < len(records) and len(ids) % config.plan.schedule.sequence == 0
    if not extends or [record.id for record in records[: len(ids)]] != ids:
        return None
    of_records = record_settings(model, records, chat=config.chat).keys()
    fixed = {name: value for name, value in settings.items() if name not in of_records}
    first = {**fixed, **record_settings(model, records[: len(ids)], chat=config.chat)}
    return stored if difference(stored, first) is None else None


def _other_records(out: Path, records: Sequence[BenchmarkRecord]) -> str:
    """Say how the records of the run in ``out`` differ from ``records``."""
    hashes = {entry.id: entry.sha256 for entry in RunFolder(out).entries()}
    given = {record.id: digest(record.model_dump(mode="json")) for record in records}
    # A record of the same id that has no line yet counts as equal.
    stored = {name: hashes.get(name, given.get(name)) for name in read_settings(out)["ids"]}
    return other_rows("records", stored, given, counts=(len(stored), len(given)))


@dataclass(frozen=True)
class _Sequence:
    """Records whose edits accumulate in the model; under the schedule ``single`` it is one record."""

    number: int
    items: Sequence[Item]

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self.items]


@dataclass(frozen=True)
class _Run:
    """A run: its inputs, its folder, and what was done before this start."""

    method: Method
    model: LanguageModel
    config: EvalConfig
    folder: RunFolder
    unedited: UneditedScores
    done: Done
    points: Points
    # Steps and scores of records that were edited together, each alone on the unedited model; by the record's id.
    steps: dict[str, StepOutcome] = field(default_factory=dict)
    scores: dict[str, Section] = field(default_factory=dict)

    def is_done(self, sequence: _Sequence) -> bool:
        """Return whether all phases of its records, and all points of general ability, are recorded."""
        plan = self.config.plan
        if any(True for _ in missing_phases(plan, sequence.ids, self.done)):
            return False
        points = missing_points(plan, sequence.number, len(sequence.items), self.points)
        return not self.config.has_points or not any(True for _ in points)

    def sequence(self, sequence: _Sequence, bar: Bar | None = None) -> None:
        """Do what is missing of a sequence; ``bar`` counts the records of each step.

        A failed edit leaves the model unchanged, and its record is scored on that model.

        Raises:
            OutputError: a result can't be written; all earlier results remain.
        """
        plan, records = self.config.plan, sequence.items
        self._point(sequence, 0, None, bar)  # first: a text or task that can't be used is found before any record
        # With a sample, not all records are scored. One that the unedited model can't be scored on is not edited.
        if bar:
            bar.phase("unedited model", len(records))
            bar.note("unedited model")
        scored_ids = set(plan.scored(sequence.ids))
        failed = self._base([item for item in records if item.id in scored_ids])

        # A stopped run resumes: dense patches of the first steps are one file, their sum; other steps load their patch.
        scorings = list(plan.scorings(len(records)))
        files = StepFiles(self.folder, sequence.number)
        recorded = list(takewhile(lambda scoring: self._is_known(sequence, scoring, failed), scorings))
        summed, patch = files.summed(len(recorded))
        if recorded and len(recorded) < len(scorings):
            where = f"{self.folder.path}, sequence {sequence.number}"
            log.info("%s resumes after %d of %d records", where, recorded[-1].edits, len(records))
        for number, scoring in enumerate(scorings):
            if bar and number >= len(recorded):
                bar.phase("editing", len(scoring.step))
                bar.note("")
            if number >= summed:
                edited = [records[index] for index in scoring.step if records[index].id not in failed]
                to_score = [records[index] for index in scoring.indices if records[index].id not in failed]
                update = self._edit(sequence, number, edited, patch, files)
                patch = added(patch, update)  # of all edits so far; a step without a success changes nothing
                if bar and to_score:
                    bar.note(f"edited model, {len(to_score)} to score")
                self._score(sequence, scoring, to_score, patch)
                if scoring.on_curve:
                    self._point(sequence, scoring.edits, patch, bar)
                if update and patch:
                    files.sum_up(number + 1, patch)
            if bar and number < len(recorded):
                bar.skip(len(scoring.step))
            elif bar:
                bar.update(len(scoring.step))

    def _is_known(self, sequence: _Sequence, scoring: Scoring, failed: set[str]) -> bool:
        """Whether every result of a step is recorded."""
        keys = {(sequence.items[index].id, EDIT) for index in scoring.step}
        keys |= {(sequence.items[index].id, phase_of(scoring)) for index in scoring.indices}
        needs_point = scoring.on_curve and self.config.has_points
        if needs_point and (sequence.number, scoring.edits) not in self.points:
            return False
        return all(key in self.done for key in keys if key[0] not in failed)

    @property
    def together(self) -> int:
        """How many records are edited, scored and written together, at most."""
        return TOGETHER * (1 if self.model.device.type == "cpu" else _ON_ACCELERATOR)

    def ask_unedited(self, batch: Sequence[Item]) -> None:
        """Score the unedited model on the items that have no line yet, all at once; the scores are stored."""
        cases = {
            f"{item.id}/{name}": case
            for item in batch
            if (item.id, BASE) not in self.done
            for name, case in self._unedited_cases(item).items()
        }
        with suppress(*FAILURES):  # each record is then scored alone, so that the error belongs to one of them
            self.unedited.sections(cases)

    def _unedited_cases(self, item: Item) -> dict[str, Case]:
        return {BASE: item.case, **(ceiling_cases(item.case) if self.config.ceilings else {})}

    def _base(self, records: Sequence[Item]) -> set[str]:
        """Write the unedited model's scores; return the ids of the items that it can't be scored on."""
        failed = set()
        for chunk in _chunks(records, self.together):
            if len(records) > 1:
                self.ask_unedited(chunk)
            for item in chunk:
                error = self.done.get((item.id, BASE))
                if (item.id, BASE) not in self.done:
                    sections: dict[str, Section] = {}
                    try:
                        sections = self.unedited.sections(self._unedited_cases(item))
                    except FAILURES as fault:
                        error = failure(fault)
                    entry = Entry(
                        id=item.id,
                        phase=BASE,
                        sha256=item.sha256,
                        error=error,
                        choices=item.case.choices,
                        sections=sections,
                    )
                    self.folder.append([entry])
                if error is not None:
                    failed.add(item.id)
        return failed

    def _edit(
        self, sequence: _Sequence, number: int, batch: Sequence[Item], start: Patch | None, files: StepFiles
    ) -> Patch | None:
        """The patch of step ``number``: loaded if it was saved, else computed; None if none of its edits succeeds."""
        new = [item for item in batch if (item.id, EDIT) not in self.done]
        if not new and all(self.done[item.id, EDIT] for item in batch):
            return None
        if not new and (saved := files.load(number)):
            return saved
        step = self.steps.get(batch[0].id) or edit_step(self.method, [item.record for item in batch], start=start)
        if len(sequence.items) > 1:  # for one record, editing again is cheaper than storing its patch
            files.save(number, step.patch)
        self.folder.append(
            Entry(id=item.id, phase=EDIT, sha256=item.sha256, error=error)
            if (error := step.errors.get(item.id))
            else Entry(
                id=item.id,
                phase=EDIT,
                sha256=item.sha256,
                seconds=step.seconds,
                memory=step.memory,
                batch=step.halved_to,
            )
            for item in new
        )
        return step.patch

    def _score(self, sequence: _Sequence, scoring: Scoring, to_score: Sequence[Item], patch: Patch | None) -> None:
        """Score the items on the model with ``patch``, and write their lines."""
        phase = phase_of(scoring)
        new = {item.id for item in to_score if (item.id, phase) not in self.done}
        if len(sequence.items) == 1 and patch and new & self.scores.keys():
            self.folder.append([self._entry(to_score[0], phase, self.scores[to_score[0].id], patch)])
            return
        for chunk in _chunks(to_score, self.together):  # whole chunks: a resumed run rounds like an uninterrupted one
            if new & {item.id for item in chunk}:
                self.folder.append(entry for entry in self._entries_of(patch, chunk, phase) if entry.id in new)

    def _entries_of(self, patch: Patch | None, chunk: Sequence[Item], phase: str) -> list[Entry]:
        """Score the items all at once; if that fails, each alone, so that an error belongs to one item.

        An item that the edited model can't be scored on, because its edits broke it, gets `broken` scores.
        """
        try:
            sections = self.sections(chunk, patch)
            return [self._entry(item, phase, section, patch) for item, section in zip(chunk, sections, strict=True)]
        except FAILURES as error:
            if len(chunk) > 1:
                return [entry for item in chunk for entry in self._entries_of(patch, [item], phase)]
            (item,) = chunk
            zeros = broken(item.case, self.unedited.sections({item.id: item.case})[item.id])
            return [Entry(id=item.id, phase=phase, sha256=item.sha256, error=failure(error), sections={phase: zeros})]

    def sections(
        self, chunk: Sequence[Item], patch: Patch | None = None, patches: Mapping[str, Patch] | None = None
    ) -> list[Section]:
        """Score items on the model with ``patch``, or each on the model with its own of ``patches``, by item id."""
        before = self.unedited.sections({item.id: item.case for item in chunk})
        with self._edited(patch) as model:
            sections = in_halves(
                lambda part: score_cases(
                    model,
                    [item.case for item in part],
                    before=[before[item.id] for item in part],
                    patches=None if patches is None else [patches[item.id] for item in part],
                ),
                chunk,
            )
        return with_cosines(self.model, [item.case for item in chunk], sections)

    def _entry(self, item: Item, phase: str, section: Section, patch: Patch | None) -> Entry:
        """The line of an item's scores; at the end of its sequence with the seconds of an answer, if they are asked."""
        seconds = None
        if self.config.time_answers and phase == EDITED and patch:
            prompt, model = item.case.edit.text, self.model.in_chat(chat=item.case.chat)
            unedited = answer_seconds(model, prompt)
            with patch.applied(model) as edited:
                seconds = unedited, answer_seconds(edited, prompt)
        sections = {phase: section}
        return Entry(id=item.id, phase=phase, sha256=item.sha256, answer_seconds=seconds, sections=sections)

    def _edited(self, patch: Patch | None) -> AbstractContextManager[LanguageModel]:
        return patch.applied(self.model) if patch else nullcontext(self.model)

    def _point(self, sequence: _Sequence, edits: int, patch: Patch | None, bar: Bar | None) -> None:
        """Measure perplexity, tasks and retention after the first ``edits`` records, and write the point.

        Raises:
            KgEditError: the unedited model can't be measured, for example on a text of one token.
        """
        config = self.config
        if not config.has_points or (sequence.number, edits) in self.points:
            return
        if bar:
            asked = f", {number_of(len(config.retention.queries), 'prompt')} of retention" if config.retention else ""
            bar.note(f"{'edited' if edits else 'unedited'} model, general ability{asked}")
        scores, tasks = dict[str, float | None](), dict[str, DocumentScores]()
        problem: Exception | None = None
        before = self.unedited.replies(config.retention, chat=bool(config.chat)) if config.retention else []
        try:
            with self._edited(patch) as model:
                if config.tasks:
                    tasks |= config.tasks.scores(model, edited=patch is not None)
                if config.quick:
                    tasks |= config.quick.scores(model) if patch else self.unedited.quick(config.quick)
                if config.general is not None:
                    text = config.general
                    scores |= general_scores(model, text) if patch else self.unedited.general(text)
                scores |= {name: score.value for name, score in tasks.items()}
                if config.retention:
                    edits_so_far = [edit for item in sequence.items[:edits] for edit in item.case.edits]
                    scores |= config.retention.scores(model, edits_so_far, before=before, chat=config.chat)
        except FAILURES as error:
            problem = error
        except (RuntimeError, MemoryError) as error:
            problem = memory_failure(error)  # raises any other error
            release()
        if problem and not edits:  # no edit has broken the unedited model: the text or the tasks can't be used
            raise problem
        point = Point(
            sequence=sequence.number,
            edits=edits,
            scores={} if problem else scores,
            tasks=tasks,
            error=failure(problem) if problem else None,
        )
        self.folder.append_point(point)


def _groups(run: _Run, todo: Sequence[_Sequence], bar: Bar) -> Iterator[Sequence[_Sequence]]:
    """Yield groups of records that are each edited alone, after their edits and scores were computed together.

    A group has as many records as are done, at least `FEWEST` and at most `TOGETHER`: 4, 4, 8, 16, 16, … A short run
    loses little when it is killed, and a long run loses no speed: a record in a group of sixteen takes 0.7 of the time
    of one in a group of four. On an accelerator both are `_ON_ACCELERATOR` times as many. The patches of a group take
    `HELD` bytes at most, or the group has one record.
    """
    most, fewest = run.together, FEWEST * run.together // TOGETHER
    start = asked = largest = 0
    assumed = sum(weight.nbytes for weight in run.model.model.parameters())  # of a patch, before one is known
    while start < len(todo):
        size = max(1, min(most, max(fewest, start), HELD // (largest or assumed)))
        group = todo[start : start + size]
        records, first, last = [sequence.items[0] for sequence in group], bar.n + 1, bar.n + len(group)
        label = f"records {first} to {last}" if last > first else f"record {first}"
        bar.note(f"{label}, unedited model")
        bar.phase("unedited model", min(most, len(todo) - asked) if asked < start + len(group) else 0)
        while asked < start + len(group):  # the unedited model is asked about ``most`` records at once
            run.ask_unedited([sequence.items[0] for sequence in todo[asked : asked + most]])
            asked += most
        _compute_together(run, records, bar, label)
        largest = max([largest, *(step.patch.nbytes for step in run.steps.values() if step.patch)])
        yield group
        start += len(group)


def _compute_together(run: _Run, group: Sequence[Item], bar: Bar, label: str) -> None:
    """Edit and score records in one call each, every one alone on the unedited model, with the same results.

    If a call fails, each record is later edited and scored alone, so that the error belongs to one of them. ``label``
    is the group in words, for the bar.
    """
    run.steps.clear()
    run.scores.clear()
    new = [item for item in group if (item.id, EDITED) not in run.done and not run.done.get((item.id, BASE))]
    run.ask_unedited(new)  # for these alone: the call for ``most`` records may have failed because of another one
    bar.note(f"{label}, editing")
    bar.phase("editing", len(group))
    if isinstance(run.method, EditsEach):
        steps = StepNotes(lambda text: bar.note(f"{label}, {text}"))
        with watched([steps], [item.id for item in new]), suppress(*FAILURES):
            run.steps.update(edit_each_alone(run.method, [item.record for item in new if len(item.record.edits) == 1]))
    patches = {name: step.patch for name, step in run.steps.items() if step.patch}
    edited = [item for item in new if item.id in patches]
    bar.note(f"{label}, edited model")
    bar.phase("edited model", len(group))
    with suppress(*FAILURES):
        run.scores.update(zip((item.id for item in edited), run.sections(edited, patches=patches), strict=True))


def _chunks(batch: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (batch[start : start + size] for start in range(0, len(batch), size))
