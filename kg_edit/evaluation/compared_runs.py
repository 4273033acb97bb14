"""The runs that are compared: their records, whether they are comparable, and notes about what makes them differ.

Only runs with the same protocol are compared, on the records that all runs have. They may be of different models, whose
records are paired by id all the same; what belongs to a model (its tokenizer, its chat template) then differs too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kg_common.terminal import number_of
from kg_edit.errors import OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.records import (
    EDITED,
    RunFolder,
    RunRecord,
    join_phases,
    list_missing_phases,
    read_progress,
    split_into_sequences,
)
from kg_edit.evaluation.schedule import Schedule
from kg_edit.evaluation.settings import method_in_words
from kg_edit.evaluation.statistics import RecordScores
from kg_edit.storage.run_differences import Settings, describe_difference
from kg_edit.storage.run_folder import read_settings
from kg_edit.text.display import one_line

# A setting that must be equal -> what to do if it differs.
_SAME = {
    "job": "compare runs of `kg-edit evaluate`",
    "chat": "ask both in one form: both with --chat, or both with --plain",
    "protocol": "evaluate both with one version of kg-edit",
    "question_form_sha256": "evaluate both with one version of kg-edit",
}
_SAME_IN_ONE_MODEL = {
    "chat_form_sha256": "make and ask both in one form, with one chat template",
    "tokenizer_sha256": "evaluate both with one tokenizer",
}
_SHARED = "--common compares the records that all have"

UNEDITED = "unedited"
Scores = Mapping[str, RecordScores]  # by the record's id


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run with its name in the comparison, its records by id, and the ids of records that it has not finished."""

    folder: Path
    name: str
    settings: Settings
    records: Mapping[str, RunRecord]
    unfinished: frozenset[str]

    @classmethod
    def read(cls, folder: Path, name: str) -> ComparedRun:
        """Read the run in ``folder``."""
        settings = read_settings(folder)
        files = RunFolder(folder)
        if settings.get("job") != "evaluate":
            raise OutputError(f"{folder} is not a run of `kg-edit evaluate`; {_SAME['job']}")
        plan = EvalConfig.of(settings).plan
        done, _ = read_progress(files)
        unfinished = set[str]()
        for ids in split_into_sequences(settings).values():
            unfinished.update(record for record, _ in list_missing_phases(plan, ids, done))
        # With a sample, the edited model was asked only about the last point's records.
        records = dict[str, RunRecord]()
        for record in join_phases(files.entries()):
            if plan.sample is None or EDITED in record.scores:
                records[record.id] = record
        return cls(folder=folder, name=name, settings=settings, records=records, unfinished=frozenset(unfinished))

    def scores(self, ids: Sequence[str], section: str) -> Scores:
        """Return the scores of records on the unedited or the edited model: in the section of its phase."""
        return {name: self.records[name].scores.get(section, {}) for name in ids}

    def ids(self) -> list[str]:
        """Return the ids of the finished records, in the data set's order."""
        return [name for name in self.settings["ids"] if name in self.records and name not in self.unfinished]

    @property
    def model(self) -> tuple[Any, Any]:
        """What tells whether two runs have the same model: the weights' fingerprint and the dtype."""
        model = self.settings.get("model") or {}
        return model.get("fingerprint"), model.get("dtype")

    @property
    def model_in_words(self) -> str:
        """The model's name and dtype: "gpt-j, bfloat16"."""
        model = self.settings.get("model") or {}
        dtype = str(model.get("dtype")).removeprefix("torch.")
        return f"{model.get('name')}, {dtype}"

    @property
    def schedule(self) -> Schedule:
        """The schedule under which the run's edits were made."""
        return Schedule.parse(self.settings.get("schedule", "single"))


def check_comparable(runs: Sequence[ComparedRun], *, common: bool) -> None:
    """Refuse runs that differ in a setting that must be equal, and runs that are not finished."""
    first = runs[0]
    for run in runs:
        must_be_equal = dict(_SAME)
        if run.model == first.model:
            must_be_equal |= _SAME_IN_ONE_MODEL
        elif ("chat_form_sha256" in run.settings) != ("chat_form_sha256" in first.settings):
            raise OutputError(
                f"{first.folder} and {run.folder} can't be compared: one is in chat form and the other is not; "
                f"{_SAME['chat']}"
            )
        if not common:
            shared = any(_has_same_record(first, run, name) for name in first.ids())
            must_be_equal["data"] = _add_shared("evaluate both on one file", shared=shared)
        for field, way_out in must_be_equal.items():
            expected = first.settings.get(field)
            actual = run.settings.get(field)
            if field == "data" and None in (expected, actual):
                continue  # records that a program gave, of no known file: the records' own hashes are compared
            differs = describe_difference({field: expected}, {field: actual})
            if differs:
                raise OutputError(f"{first.folder} and {run.folder} can't be compared ({differs}); {way_out}")
        if run.unfinished and not common:
            raise _explain_unfinished(run)


def _explain_unfinished(run: ComparedRun) -> OutputError:
    """Return the error about a run that has not all scores yet, with the first record that lacks some."""
    when = ""
    if run.schedule.sequence > 1:
        when = " at the end of their sequence"
    ids = run.settings["ids"]
    fault = f"{len(run.unfinished)} of {len(ids)} records have not all scores{when} yet"
    unfinished = [name for name in ids if name in run.unfinished]
    way = _add_shared("start it again", shared=bool(run.ids()))
    return OutputError(f"{run.folder} is not finished: {fault}, the first of them {unfinished[0]!r}; {way}")


def _add_shared(way: str, *, shared: bool) -> str:
    """Return the way out, and ``--common`` if there are records that all have."""
    return f"{way}; {_SHARED}" if shared else way


def shared_records(runs: Sequence[ComparedRun], *, common: bool) -> list[str]:
    """Return the ids of the records to compare, in the first run's order."""
    first, *others = runs
    if not common:
        for run in others:
            _refuse_other_records(first, run)
    ids = first.ids()
    for run in others:
        ids = [name for name in ids if _has_same_record(first, run, name)]
    if not ids:
        raise OutputError("the runs share no record, so there is nothing to compare; evaluate the same data set")
    return ids


def _refuse_other_records(first: ComparedRun, run: ComparedRun) -> None:
    """Refuse a run that lacks records of the first one, or has more."""
    lacking = [name for name in first.ids() if not _has_same_record(first, run, name)]
    more = [name for name in run.ids() if not _has_same_record(run, first, name)]
    faults = []
    if lacking:
        faults.append(f"{_word_share(lacking, 'first')} not in the second")
    if more:
        faults.append(f"{_word_share(more, 'second')} not in the first")
    if faults:
        way = _add_shared("evaluate both on the same records", shared=len(lacking) < len(first.ids()))
        raise OutputError(f"{first.folder} and {run.folder} have different records: {', and '.join(faults)}; {way}")


def _word_share(ids: Sequence[str], which: str) -> str:
    """Return the beginning of a sentence: "3 of the first ('row-1', …) are"."""
    if len(ids) == 1:
        return f"1 of the {which} ({ids[0]!r}) is"
    return f"{len(ids)} of the {which} ({ids[0]!r}, …) are"


def _has_same_record(one: ComparedRun, other: ComparedRun, name: str) -> bool:
    """Return whether another run has finished a record of this id, and it is the same record."""
    if name not in other.records or name in other.unfinished:
        return False
    return one.records[name].sha256 == other.records[name].sha256


def describe_models(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Return the model of each run in words, by the run's name; empty if all runs have one model."""
    if len({run.model for run in runs}) == 1:
        return {}
    words = {run.name: run.model_in_words for run in runs}
    if len(set(words.values())) == 1:  # the same name for other weights
        for run in runs:
            words[run.name] += f", weights {str(run.model[0])[:8]}"
    return words


def write_notes(runs: Sequence[ComparedRun], ids: Sequence[str]) -> tuple[str, ...]:
    """Return notes about the runs for the reader of a comparison."""
    return (*_note_methods(runs), *_note_errors(runs, ids), *_note_fairness(runs, ids))


def _note_methods(runs: Sequence[ComparedRun]) -> list[str]:
    """Return which presets and controls the runs have, if some have one."""
    notes = []
    presets = {run.name: run.settings.get("preset", "default") for run in runs}
    if set(presets.values()) != {"default"}:
        notes.append(", ".join(f"{name}: preset {preset}" for name, preset in presets.items()))
    with_graph = {run.name: method_in_words(run.settings) for run in runs if run.settings.get("graph")}
    if any("--control" in words for words in with_graph.values()):
        notes.append(", ".join(f"{name}: {words}" for name, words in with_graph.items()))
    return notes


def _note_errors(runs: Sequence[ComparedRun], ids: Sequence[str]) -> list[str]:
    """Return how many records could not be edited, and how many edits broke the model."""
    notes = []
    for run in runs:
        failed = [name for name in ids if run.records[name].error is not None and not run.records[name].broken]
        if failed:
            error = one_line(str(run.records[failed[0]].error))
            notes.append(f"{run.name}: {len(failed)} failed; {failed[0]}: {error}")
    for run in runs:
        broken = sum(bool(run.records[name].broken) for name in ids)
        if broken:
            notes.append(f"{run.name}: {run.settings['method']} broke the model of {broken}, whose shares count as 0")
    return notes


def _note_fairness(runs: Sequence[ComparedRun], ids: Sequence[str]) -> list[str]:
    """Return what makes the runs less comparable: other tokens, records, versions, choices and schedules."""
    notes = []
    if len({run.settings.get("tokenizer_sha256") for run in runs}) > 1:
        notes.append("the models have different tokens, so scores in nats a token are not comparable between them")
    if any(len(run.ids()) > len(ids) for run in runs):
        has = ", ".join(f"{run.name} has {len(run.ids())}" for run in runs)
        notes.append(f"only the {number_of(len(ids), 'record')} that all runs have ({has})")
    versions = dict.fromkeys(str(run.settings.get("kg_edit")) for run in runs)
    if len(versions) > 1:
        notes.append(f"made with kg-edit {' and '.join(versions)}")
    if any(_list_choices(run, ids) != _list_choices(runs[0], ids) for run in runs):
        notes.append("the runs have different answers to choose from (--seed), so portability.choice is not comparable")

    schedules = {run.schedule for run in runs}
    if any(schedule.sequence > 1 for schedule in schedules):
        notes.append("records of one batch or sequence are not independent, so intervals and p are too narrow")
    if len(schedules) > 1:
        return notes  # different schedules are in the line above the table
    if any(_list_edited_together(run, ids) != _list_edited_together(runs[0], ids) for run in runs):
        notes.append("the runs have different edits in a model, so the scores after several edits are not comparable")
    return notes


def _list_choices(run: ComparedRun, ids: Sequence[str]) -> list[tuple[tuple[str, ...], ...]]:
    """Return the answers to choose from, for each of ``ids``."""
    return [run.records[name].choices for name in ids]


def _list_edited_together(run: ComparedRun, ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the records whose edits are in one model, for each of ``ids``."""
    together = dict[str, tuple[str, ...]]()
    for names in split_into_sequences(run.settings).values():
        together |= dict.fromkeys(names, names)
    return [together[name] for name in ids]
