"""Compare runs record by record: differences of the scores of the same records, with intervals and corrected p-values.

Of runs with different schedules the scores at the end are compared: of a record alone, and after all edits of its
sequence. If the runs have different models, there is an unedited model of each. Which runs are comparable is decided in
`kg_edit.evaluation.compared_runs`. This file first has the result (`Comparison`, with a `MetricRow` for each metric),
then `compare`, which makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from kg_common.progress import Bar
from kg_common.terminal import number_of
from kg_edit.errors import ConfigError, KgEditError, unknown_name
from kg_edit.evaluation.compared_runs import (
    UNEDITED,
    ComparedRun,
    Scores,
    check_comparable,
    describe_models,
    shared_records,
    write_notes,
)
from kg_edit.evaluation.general_tasks import PREFIX
from kg_edit.evaluation.records import BASE, EDITED, RunFolder
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

if TYPE_CHECKING:
    import pandas as pd

_DIFFERENCE = {  # column of a table -> field of a `Difference`
    "difference": "mean",
    "difference_low": "ci95_low",
    "difference_high": "ci95_high",
    "p": "p",
    "p_holm": "p_holm",
    "test": "test",
}


class MetricRow(BaseModel):
    """A metric over the ``n`` records that have it on every side: the mean of each side, and the difference of each to
    the first.

    ``means`` begins with the unedited model (one for each model), if it is no side and has the metric of all these
    records. The editing score's ``n`` is that of its rarest part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    n: int
    means: dict[str, Estimate]
    differences: dict[str, Difference]


class Comparison(BaseModel):
    """The result of `compare`. ``sides`` are names; the others are compared with the first one.

    ``data`` is None for an unknown benchmark. ``model`` is None if the runs have different ones; then ``models`` has
    each run's model in words. ``schedule`` is None likewise; then ``schedules`` says in words what each run's score is.
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
    models: dict[str, str] = {}

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentences above a table: which run has which model, and which schedule; () if they all have the same."""
        return tuple(line for line in (self.models_line, self.schedules_line) if line)

    @property
    def models_line(self) -> str:
        """A sentence that says which run has which model; "" if all have the same."""
        if not self.models:
            return ""
        runs = ", ".join(f"{name} ({words})" for name, words in self.models.items())
        return f"Different models: {runs}."

    @property
    def schedules_line(self) -> str:
        """A sentence that says which run was scored under which schedule; "" if all have the same."""
        if not self.schedules:
            return ""
        runs = ", ".join(f"{name} ({words})" for name, words in self.schedules.items())
        return f"Different schedules: {runs}."

    @property
    def shown(self) -> tuple[str, ...]:
        """The sides in the order of a table: first the unedited models that are no sides but have some mean."""
        unedited = dict[str, None]()
        for row in self.rows:
            unedited.update(dict.fromkeys(name for name in row.means if name not in self.sides))
        return (*unedited, *self.sides)

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
                mean = row.means[side].mean if side in row.means else None
                cells.append(mean)
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
    They may also be of different models; then the table has the unedited model of each.

    Args:
        folders: the folders of the runs, or one. One run alone is compared with the unedited model.
        against: the run to compare the others with; its folder or its name.
        metrics: the metrics to compare, or one; by default all.
        common: use only the records that all runs have.
        seed: of the intervals and permutations.

    Raises:
        ConfigError: no run is given, one is given twice, ``against`` is none of them or the unedited model of several,
            or no record has one of ``metrics`` (or any metric) on each side.
        UnknownNameError: a metric is in none of the runs.
        OutputError: a folder holds no finished run, or the runs differ in a setting that must be equal: the data set,
            its records, the form of the prompts or the protocol.
    """
    if isinstance(folders, str | Path | RunFolder):
        folders = [folders]
    if isinstance(metrics, str):
        metrics = (metrics,)
    if not folders:
        raise ConfigError("no run is given; give the folder of at least one run")
    runs = _read_runs([_path_of(folder) for folder in folders])
    check_comparable(runs, common=common)
    ids = shared_records(runs, common=common)
    sides = _choose_sides(runs, ids, against)
    bases = dict[str, Scores]()
    if UNEDITED not in sides:
        bases = _read_bases(runs, ids)
    names = _choose_metrics(metrics, sides, runs)
    rows = _compare_metrics(sides, ids, names, seed, bases=bases)
    lacking = sorted(set(metrics) - {row.metric for row in rows})
    if not rows:
        raise _explain_nothing_to_compare(sides, lacking)
    notes = list(write_notes(runs, ids))
    if lacking:
        notes.append(f"no record has {' and '.join(lacking)} on each side")
    return Comparison(
        sides=tuple(sides),
        records=len(ids),
        rows=_correct(rows),
        notes=tuple(notes),
        seed=seed,
        data=_name_data_sets(runs),
        **_describe_settings(runs),
    )


def _describe_settings(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Return the model and the schedule of the runs as fields of a `Comparison`: the one, or each run's in words."""
    settings = runs[0].settings
    fields: dict[str, Any] = {}
    models = describe_models(runs)
    if models:
        fields["models"] = models
    else:
        fields["model"] = settings.get("model", {}).get("name")
    schedules = _describe_schedules(runs)
    if schedules:
        fields["schedules"] = schedules
    else:
        fields["schedule"] = settings.get("schedule")
    return fields


def _path_of(folder: str | Path | RunFolder) -> Path:
    if isinstance(folder, RunFolder):
        return Path(folder.path)
    return Path(folder)


def _name_data_sets(runs: Sequence[ComparedRun]) -> str | None:
    """Return the names of the runs' data sets, each once; None if none is known."""
    names = dict[str, None]()
    for run in runs:
        data = run.settings.get("data") or {}
        if data.get("dataset"):
            names[data["dataset"]] = None
    return " and ".join(names) or None


def _describe_schedules(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Return what each run's scores are, by the run's name; empty if all runs have one schedule."""
    if len({run.schedule for run in runs}) == 1:
        return {}
    return {run.name: run.schedule.in_words(len(run.settings["ids"])) for run in runs}


def _read_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Read the runs; a run's name is the last part of its folder, unless that is ambiguous."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is given twice; give each folder once")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names) or UNEDITED in names:
        names = [_name_path(path) for path in paths]
    return [ComparedRun.read(path, name) for path, name in zip(paths, names, strict=True)]


def _name_path(path: Path) -> str:
    """Return a path as the name of a run; a folder that is called like the unedited model is "./unedited"."""
    if str(path) == UNEDITED:
        return f"./{path}"
    return str(path)


def _choose_sides(runs: Sequence[ComparedRun], ids: Sequence[str], against: str | None) -> dict[str, Scores]:
    """Return the scores of each side by its name; the first side is the one that the others are compared with."""
    sides: dict[str, Scores] = {run.name: run.scores(ids, EDITED) for run in runs}
    if against:
        reference = against
    elif len(runs) > 1:
        reference = runs[0].name
    else:
        reference = UNEDITED
    if reference == UNEDITED:
        if describe_models(runs):
            raise ConfigError(
                "the runs have different models, so there is no one unedited model to compare with; leave out "
                "--against unedited, or compare each run alone"
            )
        sides[UNEDITED] = runs[0].scores(ids, BASE)
    by_folder = {str(run.folder): run.name for run in runs}
    first = reference
    if reference not in sides:  # it may be the folder of a run
        first = by_folder.get(str(Path(reference)), reference)
    if first not in sides:
        raise ConfigError(f"can't compare with {reference!r}; expected {UNEDITED} or one of {', '.join(by_folder)}")
    if len(sides) == 1:
        raise ConfigError(f"{first} is not compared with itself; give another run, or {UNEDITED}")
    return {first: sides.pop(first), **sides}


def _read_bases(runs: Sequence[ComparedRun], ids: Sequence[str]) -> dict[str, Scores]:
    """Return the scores of the unedited model; of several models under the name of the first run of each."""
    if not describe_models(runs):
        return {UNEDITED: runs[0].scores(ids, BASE)}
    firsts = dict[object, ComparedRun]()
    for run in runs:
        firsts.setdefault(run.model, run)
    return {f"{UNEDITED} ({run.name})": run.scores(ids, BASE) for run in firsts.values()}


def _choose_metrics(requested: Sequence[str], sides: Mapping[str, Scores], runs: Sequence[ComparedRun]) -> list[str]:
    """Return the requested metrics, each once because Holm's correction counts the tests; by default all."""
    available = _list_metrics(sides)
    for name in requested:
        if name not in available:
            raise _explain_unknown_metric(name, available, runs)
    return list(dict.fromkeys(requested or available))


def _list_metrics(sides: Mapping[str, Scores]) -> tuple[str, ...]:
    """Return the metrics of any side, and the editing score if its parts are among them."""
    rows = list[RecordScores]()
    for scores in sides.values():
        rows += scores.values()
    names = metric_names(rows)
    if score_parts(dict.fromkeys(names, 1)):
        names = (*names, EDITING_SCORE)
    return names


def _explain_unknown_metric(name: str, available: Sequence[str], runs: Sequence[ComparedRun]) -> KgEditError:
    """Return the error about a metric that no record has."""
    for run in runs:
        for point in RunFolder(run.folder).points():
            if name in point.scores or f"{PREFIX}{name}" in point.scores:
                return ConfigError(
                    f"{name} is of the whole model, not of each record, so it is not compared; its values for the "
                    "unedited and the edited model are in each run's own table and summary.json (general, curve)"
                )
    return unknown_name("metric", name, available)


def _explain_nothing_to_compare(sides: Mapping[str, Scores], lacking: Sequence[str]) -> ConfigError:
    """Return the error about runs without a common metric; ``lacking`` are the metrics that were asked for."""
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
    """Return whether some record has a score of one of the metrics."""
    present = set[str]()
    for row in scores.values():
        present.update(name for name, value in row.items() if value is not None)
    return not present.isdisjoint(metrics)


def _compare_metrics(
    sides: Mapping[str, Scores],
    ids: Sequence[str],
    metrics: Sequence[str],
    seed: int,
    *,
    bases: Mapping[str, Scores],
) -> list[MetricRow]:
    """Return a row for each metric that some record has on every side.

    Args:
        sides: the scores of each side; the first one is compared with the others.
        ids: the records.
        metrics: the metrics of the rows.
        seed: of the intervals and permutations.
        bases: scores whose means are shown beside those of the sides, by name.
    """
    names = tuple(metrics)
    if EDITING_SCORE in metrics:  # its parts as well
        names = tuple(dict.fromkeys([*metrics, *SCORED]))
    tables = _tabulate(sides, bases, ids, names)
    first = next(iter(sides))
    is_missing = np.isnan(tables[first])  # [records, metrics], the same for every side
    counts = dict(zip(names, (~is_missing).sum(axis=0).tolist(), strict=True))  # records that have each metric
    means = {}
    for name, table in tables.items():
        means[name] = estimates(_list_records(table, names), names=names, seed=seed)

    rows = []
    for metric in Bar(metrics, title="comparing", unit="metric", delay=2.0, leave=False):
        parts: Sequence[str] = (metric,)
        if metric == EDITING_SCORE:
            parts = score_parts(counts)
        columns = [names.index(part) for part in parts]
        of_metric = {side: tables[side][:, columns] for side in sides}  # [records, parts]
        differences = _find_differences(of_metric, seed)
        if not differences:
            continue
        # Every side has scores of the same records (`_tabulate`). A base may lack some, and then its mean is not shown.
        shown_means = {}
        for name, table in tables.items():
            if np.array_equal(np.isnan(table[:, columns]), is_missing[:, columns]):
                shown_means[name] = means[name][metric]
        n = min(counts[part] for part in parts)
        rows.append(MetricRow(metric=metric, n=n, means=shown_means, differences=differences))
    return rows


def _tabulate(
    sides: Mapping[str, Scores], bases: Mapping[str, Scores], ids: Sequence[str], names: Sequence[str]
) -> dict[str, Table]:
    """Return the scores [records, metrics] of each base and of each side.

    A score that one of the sides lacks is NaN in all tables, so that each row of a metric has the same records.
    """
    tables = {}
    for base, scores in bases.items():
        tables[base] = _make_table(scores, ids, names)
    is_missing = np.zeros((len(ids), len(names)), dtype=bool)
    for side, scores in sides.items():
        tables[side] = _make_table(scores, ids, names)
        is_missing |= np.isnan(tables[side])
    for table in tables.values():
        table[is_missing] = np.nan
    return tables


def _find_differences(tables: Mapping[str, Table], seed: int) -> dict[str, Difference]:
    """Return the difference of each side to the first one in one metric; none for a side without common records."""
    first, *others = tables
    differences = {}
    for side in others:
        change = _find_difference(tables[first], tables[side], seed)
        if change:
            differences[side] = change
    return differences


def _make_table(scores: Scores, ids: Sequence[str], names: Sequence[str]) -> Table:
    """Return the scores [records, metrics] of one side; NaN where a record lacks the metric."""
    rows = []
    for record in ids:
        rows.append([scores[record].get(name) for name in names])
    return np.array(rows, dtype=np.float64).reshape(len(ids), len(names))


def _list_records(table: Table, names: Sequence[str]) -> list[RecordScores]:
    """Return the scores of each record by metric; None for NaN."""
    records = list[RecordScores]()
    for row in table.tolist():
        record = dict[str, float | None]()
        for name, value in zip(names, row, strict=True):
            if np.isnan(value):
                record[name] = None
            else:
                record[name] = value
        records.append(record)
    return records


def _find_difference(first: Table, second: Table, seed: int) -> Difference | None:
    """Return the difference of two sides [records, parts]: of several parts, that of their editing scores."""
    if first.shape[1] > 1:
        return score_difference(first, second, seed=seed)
    present = ~np.isnan(second[:, 0])
    return paired_difference(first[present, 0], second[present, 0], seed=seed)


def _correct(rows: Sequence[MetricRow]) -> tuple[MetricRow, ...]:
    """Return the rows with Holm-corrected p-values; the correction counts the differences of all rows."""
    values = dict[tuple[str, str], float]()  # (metric, side) -> p
    for row in rows:
        for side, change in row.differences.items():
            values[row.metric, side] = change.p
    corrected = dict(zip(values, holm(list(values.values())), strict=True))
    rows_with_p = []
    for row in rows:
        differences = {}
        for side, change in row.differences.items():
            differences[side] = change.model_copy(update={"p_holm": corrected[row.metric, side]})
        rows_with_p.append(row.model_copy(update={"differences": differences}))
    return tuple(rows_with_p)
