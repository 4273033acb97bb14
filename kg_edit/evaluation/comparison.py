"""Compare runs record by record: differences of the scores of the same records, with intervals and corrected p-values.

Only runs with the same protocol, model and tokenizer are compared, on the records that all runs have. Of runs with
different schedules the scores at the end are compared: of a record alone, and after all edits of its sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from kg_common.progress import Bar
from kg_common.terminal import number_of
from kg_edit.errors import ConfigError, KgEditError, OutputError, unknown_name
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.general_tasks import PREFIX
from kg_edit.evaluation.records import (
    BASE,
    EDITED,
    RunFolder,
    RunRecord,
    found_in,
    joined,
    missing_phases,
    sequences_of,
)
from kg_edit.evaluation.schedule import Schedule
from kg_edit.evaluation.settings import method_in_words
from kg_edit.evaluation.statistics import (
    EDITING_SCORE,
    SCORED,
    Difference,
    Estimate,
    RecordScores,
    Table,
    estimates,
    holm,
    metric_names,
    paired_difference,
    score_difference,
    score_parts,
)
from kg_edit.storage.frames import frame_of
from kg_edit.storage.notebook import html_table
from kg_edit.storage.run_folder import Settings, difference, read_settings
from kg_edit.text.display import one_line

if TYPE_CHECKING:
    import pandas as pd

# A setting that must be equal -> what to do if it differs.
_SAME = {
    "job": "compare runs of `kg-edit evaluate`",
    "chat": "ask both in one form: both with --chat, or both with --plain",
    "chat_form_sha256": "make and ask both in one form, with one chat template",
    "protocol": "evaluate both with one version of kg-edit",
    "question_form_sha256": "evaluate both with one version of kg-edit",
    "model": "evaluate both on one model, in one dtype",
    "tokenizer_sha256": "evaluate both with one tokenizer",
}
_SHARED = "--common compares the records that all have"

_DIFFERENCE = {  # column of a table -> field of a `Difference`
    "difference": "mean",
    "difference_low": "ci95_low",
    "difference_high": "ci95_high",
    "p": "p",
    "p_holm": "p_holm",
    "test": "test",
}

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
        done, _ = found_in(files)
        unfinished = set[str]()
        for ids in sequences_of(settings).values():
            unfinished.update(record for record, _ in missing_phases(plan, ids, done))
        # With a sample, the edited model was asked only about the last point's records.
        records = dict[str, RunRecord]()
        for record in joined(files.entries()):
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
    def schedule(self) -> Schedule:
        """The schedule under which the run's edits were made."""
        return Schedule.parse(self.settings.get("schedule", "single"))


def check_comparable(runs: Sequence[ComparedRun], *, common: bool) -> None:
    """Refuse runs that differ in a setting that must be equal, and runs that are not finished."""
    first = runs[0]
    for run in runs:
        must_be_equal = dict(_SAME)
        if not common:
            shared = any(_same_record(first, run, name) for name in first.ids())
            must_be_equal["data"] = _or_shared("evaluate both on one file", shared=shared)
        for field, way_out in must_be_equal.items():
            expected = first.settings.get(field)
            actual = run.settings.get(field)
            if field == "data" and None in (expected, actual):
                continue  # records that a program gave, of no known file: the records' own hashes are compared
            differs = difference({field: expected}, {field: actual})
            if differs:
                raise OutputError(f"{first.folder} and {run.folder} can't be compared ({differs}); {way_out}")
        if run.unfinished and not common:
            raise _unfinished(run)


def _unfinished(run: ComparedRun) -> OutputError:
    """The error about a run that has not all scores yet, with the first record that lacks some."""
    when = " at the end of their sequence" if run.schedule.sequence > 1 else ""
    ids = run.settings["ids"]
    fault = f"{len(run.unfinished)} of {len(ids)} records have not all scores{when} yet"
    unfinished = [name for name in ids if name in run.unfinished]
    way = _or_shared("start it again", shared=bool(run.ids()))
    return OutputError(f"{run.folder} is not finished: {fault}, the first of them {unfinished[0]!r}; {way}")


def _or_shared(way: str, *, shared: bool) -> str:
    """The way out, and ``--common`` if there are records that all have."""
    return f"{way}; {_SHARED}" if shared else way


def shared_records(runs: Sequence[ComparedRun], *, common: bool) -> list[str]:
    """Return the ids of the records to compare, in the first run's order."""
    first, *others = runs
    if not common:
        for run in others:
            _refuse_other_records(first, run)
    ids = first.ids()
    for run in others:
        ids = [name for name in ids if _same_record(first, run, name)]
    if not ids:
        raise OutputError("the runs share no record, so there is nothing to compare; evaluate the same data set")
    return ids


def _refuse_other_records(first: ComparedRun, run: ComparedRun) -> None:
    """Refuse a run that lacks records of the first one, or has more."""
    lacking = [name for name in first.ids() if not _same_record(first, run, name)]
    more = [name for name in run.ids() if not _same_record(run, first, name)]
    faults = []
    if lacking:
        faults.append(f"{_of_all(lacking, 'first')} not in the second")
    if more:
        faults.append(f"{_of_all(more, 'second')} not in the first")
    if faults:
        way = _or_shared("evaluate both on the same records", shared=len(lacking) < len(first.ids()))
        raise OutputError(f"{first.folder} and {run.folder} have different records: {', and '.join(faults)}; {way}")


def _of_all(ids: Sequence[str], which: str) -> str:
    """The beginning of a sentence: "3 of the first ('row-1', …) are"."""
    if len(ids) == 1:
        return f"1 of the {which} ({ids[0]!r}) is"
    return f"{len(ids)} of the {which} ({ids[0]!r}, …) are"


def _same_record(one: ComparedRun, other: ComparedRun, name: str) -> bool:
    return (
        name in other.records
        and name not in other.unfinished
        and one.records[name].sha256 == other.records[name].sha256
    )


def _notes(runs: Sequence[ComparedRun], ids: Sequence[str]) -> tuple[str, ...]:
    """Notes about the runs for the reader of a comparison."""
    return (*_notes_on_methods(runs), *_notes_on_errors(runs, ids), *_notes_on_fairness(runs, ids))


def _notes_on_methods(runs: Sequence[ComparedRun]) -> list[str]:
    """Which presets and controls the runs have, if some have one."""
    notes = []
    presets = {run.name: run.settings.get("preset", "default") for run in runs}
    if set(presets.values()) != {"default"}:
        notes.append(", ".join(f"{name}: preset {preset}" for name, preset in presets.items()))
    methods = {run.name: method_in_words(run.settings) for run in runs if run.settings.get("graph")}
    if any("--control" in words for words in methods.values()):
        notes.append(", ".join(f"{name}: {words}" for name, words in methods.items()))
    return notes


def _notes_on_errors(runs: Sequence[ComparedRun], ids: Sequence[str]) -> list[str]:
    """How many records could not be edited, and how many edits broke the model."""
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


def _notes_on_fairness(runs: Sequence[ComparedRun], ids: Sequence[str]) -> list[str]:
    """What makes the runs less comparable: other records, versions, answers to choose from, and schedules."""
    notes = []
    if any(len(run.ids()) > len(ids) for run in runs):
        has = ", ".join(f"{run.name} has {len(run.ids())}" for run in runs)
        notes.append(f"only the {number_of(len(ids), 'record')} that all runs have ({has})")
    versions = dict.fromkeys(str(run.settings.get("kg_edit")) for run in runs)
    if len(versions) > 1:
        notes.append(f"made with kg-edit {' and '.join(versions)}")
    if any(_choices(run, ids) != _choices(runs[0], ids) for run in runs):
        notes.append("the runs have different answers to choose from (--seed), so portability.choice is not comparable")

    schedules = {run.schedule for run in runs}
    if any(schedule.sequence > 1 for schedule in schedules):
        notes.append("records of one batch or sequence are not independent, so intervals and p are too narrow")
    if len(schedules) > 1:
        return notes  # different schedules are in the line above the table
    if any(_edited_together(run, ids) != _edited_together(runs[0], ids) for run in runs):
        notes.append("the runs have different edits in a model, so the scores after several edits are not comparable")
    return notes


def _choices(run: ComparedRun, ids: Sequence[str]) -> list[tuple[tuple[str, ...], ...]]:
    """The answers to choose from, for each of ``ids``."""
    return [run.records[name].choices for name in ids]


def _edited_together(run: ComparedRun, ids: Sequence[str]) -> list[tuple[str, ...]]:
    """The records whose edits are in one model, for each of ``ids``."""
    together = dict[str, tuple[str, ...]]()
    for names in sequences_of(run.settings).values():
        together |= dict.fromkeys(names, names)
    return [together[name] for name in ids]


class MetricRow(BaseModel):
    """A metric over the ``n`` records that have it on every side: the mean of each side, and the difference of each to
    the first.

    ``means`` also has the unedited model, if it is no side and has the metric of all these records. The editing score's
    ``n`` is that of its rarest part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    n: int
    means: dict[str, Estimate]
    differences: dict[str, Difference]


class Comparison(BaseModel):
    """The result of `compare`. ``sides`` are names; the others are compared with the first one.

    ``model`` and ``data`` are shared by all runs; ``data`` is None for an unknown benchmark. ``schedule`` is None if
    the runs have different ones; then ``schedules`` says in words what each run's score is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sides: tuple[str, ...]
    records: int
    rows: tuple[MetricRow, ...]
    notes: tuple[str, ...]
    seed: int
    model: str | None = None
    data: str | None = None
    schedule: str | None = None
    schedules: dict[str, str] = {}

    @property
    def schedules_line(self) -> str:
        """A sentence that says which run was scored under which schedule; "" if all have the same."""
        runs = ", ".join(f"{name} ({words})" for name, words in self.schedules.items())
        return f"Different schedules: {runs}." if runs else ""

    @property
    def shown(self) -> tuple[str, ...]:
        """The sides in the order of a table: the unedited model first, also if it is no side but has some mean."""
        has_unedited = any(UNEDITED in row.means for row in self.rows) and UNEDITED not in self.sides
        return (UNEDITED, *self.sides) if has_unedited else self.sides

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row per metric and side: n, the mean, the difference to the first side, intervals and p-values."""
        rows = []
        for row in self.rows:
            for side in self.shown:
                if side not in row.means:
                    continue
                cells: dict[str, Any] = {"metric": row.metric, "side": side, "n": row.n}
                cells |= row.means[side].model_dump()
                change = row.differences.get(side)
                for column, field in _DIFFERENCE.items():
                    cells[column] = None if change is None else getattr(change, field)
                rows.append(cells)
        return rows

    def __repr__(self) -> str:
        size = f"{number_of(self.records, 'record')}, {number_of(len(self.rows), 'metric')}"
        return f"Comparison({', '.join(self.sides)}: {size})"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        rows = []
        for row in self.rows:
            cells: list[Any] = [row.metric, row.n]
            for side in self.shown:
                estimate = row.means.get(side)
                cells.append(estimate.mean if estimate else None)
            rows.append(cells)
        return html_table(repr(self), ["metric", "n", *self.shown], rows)

    def to_frame(self) -> pd.DataFrame:
        """Return `table` as a pandas.DataFrame.

        Raises:
            ConfigError: pandas is not installed.
        """
        return frame_of(self.table)

    @property
    def setting(self) -> str:
        """A phrase with data, model and schedule, to follow "60 records"."""
        phrase = ""
        if self.data:
            phrase += f" of {self.data}"
        if self.model:
            phrase += f" on {self.model}"
        if self.schedule:
            phrase += f" under the schedule {self.schedule}"
        return phrase


def compare(
    folders: str | Path | RunFolder | Sequence[str | Path | RunFolder],
    *,
    against: str | None = None,
    metrics: str | Sequence[str] = (),
    common: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare runs with the first of them, or with ``against``: another run, or the word unedited.

    Runs may differ in their schedule: a record's score alone is paired with its score after all edits of its sequence.

    Args:
        folders: the folders of the runs, or one. One run alone is compared with the unedited model.
        against: the run to compare the others with; its folder or its name.
        metrics: the metrics to compare, or one; by default all.
        common: use only the records that all runs have.
        seed: of the intervals and permutations.

    Raises:
        ConfigError: no run is given, one is given twice, ``against`` is none of them, or no record has one of
            ``metrics`` (or any metric) on each side.
        UnknownNameError: a metric is in none of the runs.
        OutputError: a folder holds no finished run, or the runs differ in a setting that must be equal: the model, the
            data set, its records or the protocol.
    """
    if not folders:
        raise ConfigError("no run is given; give the folder of at least one run")
    if isinstance(folders, str | Path | RunFolder):
        folders = [folders]
    runs = _read_runs([_path_of(folder) for folder in folders])
    check_comparable(runs, common=common)
    ids = shared_records(runs, common=common)
    notes = _notes(runs, ids)

    sides = _sides(runs, ids, against)
    base = {} if UNEDITED in sides else runs[0].scores(ids, BASE)
    # A metric that is named twice is one test: Holm's correction would count two
    requested = (metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics))
    available = _available(sides)
    for name in requested:
        if name not in available:
            raise _unknown_metric(name, available, runs)
    rows = _rows(sides, ids, requested or available, seed, base=base)
    lacking = sorted(set(requested) - {row.metric for row in rows})
    if not rows:
        raise _nothing_to_compare(sides, lacking)
    if lacking:
        notes += (f"no record has {' and '.join(lacking)} on each side",)

    settings = runs[0].settings
    in_words = _schedules_in_words(runs)
    return Comparison(
        sides=tuple(sides),
        records=len(ids),
        rows=_corrected(rows),
        notes=notes,
        seed=seed,
        model=settings.get("model", {}).get("name"),
        data=_data_sets(runs),
        schedule=None if in_words else settings.get("schedule"),
        schedules=in_words,
    )


def _path_of(folder: str | Path | RunFolder) -> Path:
    if isinstance(folder, RunFolder):
        return Path(folder.path)
    return Path(folder)


def _data_sets(runs: Sequence[ComparedRun]) -> str | None:
    """The names of the runs' data sets, each once; None if none is known."""
    names = dict[str, None]()
    for run in runs:
        data = run.settings.get("data") or {}
        if data.get("dataset"):
            names[data["dataset"]] = None
    return " and ".join(names) or None


def _schedules_in_words(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """What each run's scores are, by the run's name; empty if all runs have one schedule."""
    if len({run.schedule for run in runs}) == 1:
        return {}
    return {run.name: run.schedule.in_words(len(run.settings["ids"])) for run in runs}


def _read_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Read the runs; a run's name is the last part of its folder, unless that is ambiguous."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is given twice; give each folder once")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names) or UNEDITED in names:
        names = [_path_as_name(path) for path in paths]
    return [ComparedRun.read(path, name) for path, name in zip(paths, names, strict=True)]


def _path_as_name(path: Path) -> str:
    """A folder that is called like the unedited model is "./unedited"."""
    if str(path) == UNEDITED:
        return f"./{path}"
    return str(path)


def _sides(runs: Sequence[ComparedRun], ids: Sequence[str], against: str | None) -> dict[str, Scores]:
    """The scores of each side by its name; the first side is the one that the others are compared with."""
    sides: dict[str, Scores] = {run.name: run.scores(ids, EDITED) for run in runs}
    if against:
        reference = against
    elif len(runs) > 1:
        reference = runs[0].name
    else:
        reference = UNEDITED
    if reference == UNEDITED:
        sides[UNEDITED] = runs[0].scores(ids, BASE)
    by_folder = {str(run.folder): run.name for run in runs}
    first = reference
    if reference not in sides:
        first = by_folder.get(str(Path(reference)), reference)
    if first not in sides:
        raise ConfigError(f"can't compare with {reference!r}; expected {UNEDITED} or one of {', '.join(by_folder)}")
    if len(sides) == 1:
        raise ConfigError(f"{first} is not compared with itself; give another run, or {UNEDITED}")
    return {first: sides.pop(first), **sides}


def _available(sides: Mapping[str, Scores]) -> tuple[str, ...]:
    """The metrics of any side, and the editing score if its parts are among them."""
    rows = list[RecordScores]()
    for scores in sides.values():
        rows += scores.values()
    names = metric_names(rows)
    has_parts = bool(score_parts(dict.fromkeys(names, 1)))
    return (*names, EDITING_SCORE) if has_parts else names


def _unknown_metric(name: str, available: Sequence[str], runs: Sequence[ComparedRun]) -> KgEditError:
    """The error about a metric that no record has."""
    for run in runs:
        for point in RunFolder(run.folder).points():
            if name in point.scores or f"{PREFIX}{name}" in point.scores:
                return ConfigError(
                    f"{name} is of the whole model, not of each record, so it is not compared; its values for the "
                    "unedited and the edited model are in each run's own table and summary.json (general, curve)"
                )
    return unknown_name("metric", name, available)


def _nothing_to_compare(sides: Mapping[str, Scores], lacking: Sequence[str]) -> ConfigError:
    """The error about runs without a common metric; ``lacking`` are the metrics that were asked for."""
    if not lacking:
        return ConfigError(
            f"no record has a score of the same metric on each side ({', '.join(sides)}), so there is nothing to "
            "compare; look for errors in the records.jsonl of each run"
        )
    way = "compare two edited runs"
    if UNEDITED not in sides:
        lacks = [side for side, scores in sides.items() if not _has_any(scores, lacking)]
        way = f"evaluate {' and '.join(lacks or sides)} with the probes or extras that it needs"
    return ConfigError(
        f"no record has {' and '.join(lacking)} on each side ({', '.join(sides)}); leave it out, or {way}"
    )


def _has_any(scores: Scores, metrics: Sequence[str]) -> bool:
    """Whether some record has a score of one of the metrics."""
    present = set[str]()
    for row in scores.values():
        present.update(name for name, value in row.items() if value is not None)
    return not present.isdisjoint(metrics)


def _rows(
    sides: Mapping[str, Scores], ids: Sequence[str], metrics: Sequence[str], seed: int, *, base: Scores
) -> list[MetricRow]:
    """One row for each metric that some record has on every side; ``base`` are scores to show beside the sides."""
    names = tuple(metrics)
    if EDITING_SCORE in metrics:  # its parts as well
        names = tuple(dict.fromkeys([*metrics, *SCORED]))
    shown = {UNEDITED: base, **sides} if base else sides
    # Scores [records, metrics] of each side; NaN where a side lacks the score of a record.
    tables = {side: _table_of(scores, ids, names) for side, scores in shown.items()}
    missing = np.any([np.isnan(tables[side]) for side in sides], axis=0)
    tables = {side: np.where(missing, np.nan, table) for side, table in tables.items()}
    means = {side: estimates(_records_of(table, names), names=names, seed=seed) for side, table in tables.items()}
    numbers = dict(zip(names, (~missing).sum(axis=0).tolist(), strict=True))

    metric_rows = []
    for metric in Bar(metrics, title="comparing", unit="metric", delay=2.0, leave=False):
        parts = score_parts(numbers) if metric == EDITING_SCORE else (metric,)
        columns = [names.index(part) for part in parts]
        differences = _differences({side: tables[side][:, columns] for side in sides}, seed)
        if not differences:
            continue
        # A model beside the sides has the same mean only if it has the scores of the same records
        complete = [side for side in tables if (np.isnan(tables[side]) == missing)[:, columns].all()]
        row = MetricRow(
            metric=metric,
            n=int((~missing[:, columns]).sum(axis=0).min()),
            means={side: means[side][metric] for side in complete},
            differences=differences,
        )
        metric_rows.append(row)
    return metric_rows


def _differences(tables: Mapping[str, Table], seed: int) -> dict[str, Difference]:
    """The difference of each side to the first one in one metric; none for a side without common records."""
    first, *others = tables
    differences = {}
    for side in others:
        change = _difference(tables[first], tables[side], seed)
        if change:
            differences[side] = change
    return differences


def _table_of(scores: Scores, ids: Sequence[str], names: Sequence[str]) -> Table:
    """The scores [records, metrics] of one side; NaN where a record lacks the metric."""
    rows = []
    for record in ids:
        rows.append([scores[record].get(name) for name in names])
    return np.array(rows, dtype=np.float64).reshape(len(ids), len(names))


def _records_of(table: Table, names: Sequence[str]) -> list[RecordScores]:
    """The scores of each record by metric; None for NaN."""
    records = list[RecordScores]()
    for row in table.tolist():
        record = dict[str, float | None]()
        for name, value in zip(names, row, strict=True):
            record[name] = None if np.isnan(value) else value
        records.append(record)
    return records


def _difference(first: Table, second: Table, seed: int) -> Difference | None:
    """The difference of two sides [records, parts]: of several parts, that of their editing scores."""
    if first.shape[1] > 1:
        return score_difference(first, second, seed=seed)
    present = ~np.isnan(second[:, 0])
    return paired_difference(first[present, 0], second[present, 0], seed=seed)


def _corrected(rows: Sequence[MetricRow]) -> tuple[MetricRow, ...]:
    """The rows with Holm-corrected p-values."""
    values = []
    for row in rows:
        values += [change.p for change in row.differences.values()]
    remaining = iter(holm(values))
    corrected = []
    for row in rows:
        differences = {}
        for side, change in row.differences.items():
            differences[side] = change.model_copy(update={"p_holm": next(remaining)})
        corrected.append(row.model_copy(update={"differences": differences}))
    return tuple(corrected)
