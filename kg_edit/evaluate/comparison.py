"""Runs side by side, record by record; refuses what can't be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from kg_edit.errors import ConfigError, unknown_name
from kg_edit.evaluate.compared_run import ComparedRun, check_comparable, shared_records
from kg_edit.evaluate.differences import Difference, Table, holm, paired_difference, score_difference
from kg_edit.evaluate.statistics import EDITING_SCORE, SCORED, Estimate, estimates, metric_names

UNEDITED = "unedited"

Scores = Mapping[str, Mapping[str, float | None]]  # id -> metric -> score


class MetricRow(BaseModel):
    """A metric over the ``n`` records for which every side has it: a mean a side, a difference a side but the first.

    The editing score's ``n`` is that of its rarest part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    n: int
    means: dict[str, Estimate]
    differences: dict[str, Difference]


class Comparison(BaseModel):
    """What `compare` found. ``sides`` are names, the first being what the others are compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sides: tuple[str, ...]
    records: int
    rows: tuple[MetricRow, ...]
    notes: tuple[str, ...]
    seed: int


def compare(
    folders: Sequence[Path],
    *,
    against: str | None = None,
    metrics: Sequence[str] = (),
    common: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare runs with the first of them, or with ``against``: another of them, or the word unedited.

    One run alone is compared with the unedited model. Only ``metrics`` are compared where some are given; with
    ``common`` only records that all runs have.

    Raises:
        ConfigError: no run is given, one twice, or ``against`` is none of them.
        UnknownNameError: a metric is in none of the runs.
        OutputError: a folder holds no finished run, or runs differ in what has to be the same: the model, the data
            set, its records, the schedule or the protocols.
    """
    runs = _read(folders)
    check_comparable(runs, common=common)
    ids, notes = shared_records(runs, common=common)
    sides: dict[str, Scores] = {run.name: {name: run.edited(name) for name in ids} for run in runs}
    reference = against or (runs[0].name if len(runs) > 1 else UNEDITED)
    if reference == UNEDITED:
        sides = {UNEDITED: {name: runs[0].base(name) for name in ids}, **sides}
    first = _named(reference, sides, folders)
    ordered = {first: sides[first], **sides}
    rows = _rows(ordered, ids, _chosen(ordered, metrics), seed)
    return Comparison(sides=tuple(ordered), records=len(ids), rows=_corrected(rows), notes=notes, seed=seed)


def _read(folders: Sequence[Path]) -> list[ComparedRun]:
    if not folders:
        raise ConfigError("no run is given; give the folders of one or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a run is given twice; give each folder once")
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) and UNEDITED not in short else list(map(str, folders))
    return [ComparedRun.read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _named(reference: str, sides: Mapping[str, Scores], folders: Sequence[Path]) -> str:
    """The side that ``reference`` names, be it by the folder."""
    by_folder = dict(zip(map(str, folders), [side for side in sides if side != UNEDITED], strict=True))
    name = by_folder.get(reference, by_folder.get(reference.rstrip("/"), reference))
    if name not in sides:
        raise ConfigError(f"can't compare with {reference!r}; expected {UNEDITED} or one of {', '.join(by_folder)}")
    return name


def _chosen(sides: Mapping[str, Scores], metrics: Sequence[str]) -> tuple[str, ...]:
    """The metrics to compare: those asked for, else all that every side has, with the editing score."""
    known = metric_names(row for scores in sides.values() for row in scores.values())
    known += (EDITING_SCORE,) if set(SCORED) <= set(known) else ()
    for name in metrics:
        if name not in known:
            raise unknown_name("metric", name, known)
    return tuple(metrics) or known


def _rows(sides: Mapping[str, Scores], ids: Sequence[str], metrics: Sequence[str], seed: int) -> list[MetricRow]:
    """A row a metric that some record has on every side."""
    names = tuple(dict.fromkeys([*metrics, *(SCORED if EDITING_SCORE in metrics else ())]))
    tables = {side: _table(scores, ids, names) for side, scores in sides.items()}
    missing = np.any([np.isnan(table) for table in tables.values()], axis=0)
    tables = {side: np.where(missing, np.nan, table) for side, table in tables.items()}
    means = {side: _means(table, names, seed) for side, table in tables.items()}
    found = []
    for metric in metrics:
        places = [names.index(part) for part in (SCORED if metric == EDITING_SCORE else (metric,))]
        parts = {side: table[:, places] for side, table in tables.items()}
        first, *others = parts
        differences = {side: _difference(parts[first], parts[side], seed) for side in others}
        n = int((~missing[:, places]).sum(axis=0).min())
        kept = {side: difference for side, difference in differences.items() if difference}
        if kept:
            found.append(MetricRow(metric=metric, n=n, means={s: means[s][metric] for s in sides}, differences=kept))
    return found


def _table(scores: Scores, ids: Sequence[str], names: Sequence[str]) -> Table:
    """Scores [records, metrics]; NaN where one is missing."""
    rows = [[scores[record].get(name) for name in names] for record in ids]
    return np.array(rows, dtype=np.float64).reshape(len(ids), len(names))


def _means(table: Table, names: Sequence[str], seed: int) -> dict[str, Estimate]:
    rows = [
        {name: None if np.isnan(value) else float(value) for name, value in zip(names, row, strict=True)}
        for row in table
    ]
    return estimates(rows, names=names, seed=seed)


def _difference(first: Table, second: Table, seed: int) -> Difference | None:
    if first.shape[1] > 1:
        return score_difference(first, second, seed=seed)
    there = ~np.isnan(first[:, 0])
    return paired_difference(first[there, 0], second[there, 0], seed=seed)


def _corrected(rows: Sequence[MetricRow]) -> tuple[MetricRow, ...]:
    """The rows with each p corrected for the number of all."""
    flat = [(place, side) for place, row in enumerate(rows) for side in row.differences]
    values = dict(zip(flat, holm([rows[place].differences[side].p for place, side in flat]), strict=True))
    return tuple(
        row.model_copy(
            update={
                "differences": {
                    side: found.model_copy(update={"p_holm": values[place, side]})
                    for side, found in row.differences.items()
                }
            }
        )
        for place, row in enumerate(rows)
    )
