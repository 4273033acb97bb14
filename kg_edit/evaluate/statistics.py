"""Means over records with bootstrap intervals, and the score that combines four of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

EDITING_SCORE = "editing_score"
SCORED = ("efficacy.prob", "paraphrase.prob", "neighborhood.prob", "portability.greedy")
_RESAMPLES = 1000

Row = Mapping[str, float | None]
Table = NDArray[np.float64]


class Estimate(BaseModel):
    """A mean over records and its 95 % bootstrap interval; all None where no record has the metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float | None
    ci95_low: float | None
    ci95_high: float | None


def estimates(rows: Sequence[Row], *, names: Sequence[str], seed: int) -> dict[str, Estimate]:
    """The mean of each metric over ``rows`` (one a record), and the editing score where ``names`` holds its parts.

    The interval is the percentile bootstrap over records (Efron 1979); all metrics share the same resamples.
    """
    if not rows:
        rows = [dict.fromkeys(names)]  # one record that has nothing
    values = np.array([[_number(row.get(name)) for name in names] for row in rows])
    records = len(rows)
    drawn = np.random.default_rng(seed).multinomial(records, [1 / records] * records, size=_RESAMPLES)
    means, spread = _means(values, np.ones((1, records))), _means(values, drawn)
    shown = list(names)
    if set(SCORED) <= set(names):
        parts = [names.index(name) for name in SCORED]
        means, spread = (np.c_[table, harmonic_mean(table[:, parts])] for table in (means, spread))
        shown.append(EDITING_SCORE)
    return {name: _estimate(means[0, i], spread[:, i]) for i, name in enumerate(shown)}


def counts(rows: Sequence[Row], *, names: Sequence[str]) -> dict[str, int]:
    """How many of ``rows`` have each metric of `estimates`; for the editing score the rarest of its parts."""
    found = {name: sum(row.get(name) is not None for row in rows) for name in names}
    if set(SCORED) <= set(names):
        found[EDITING_SCORE] = min(found[name] for name in SCORED)
    return found


def metric_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """All metrics of ``rows``, in the order in which they first come."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def harmonic_mean(parts: NDArray[Any]) -> Table:
    """The harmonic mean of the last axis; 0 where a part is 0, NaN where one is NaN."""
    with np.errstate(divide="ignore"):
        return np.asarray(parts.shape[-1] / (1 / np.asarray(parts, float)).sum(-1))


def _means(values: Table, drawn: NDArray[Any]) -> Table:
    """Means [resamples, metrics] of values [records, metrics], each record drawn [resamples, records] times."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray((drawn @ np.where(present, values, 0.0)) / (drawn @ present))


def _estimate(mean: float, spread: Table) -> Estimate:
    if np.isnan(mean):
        return Estimate(mean=None, ci95_low=None, ci95_high=None)
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return Estimate(mean=float(mean), ci95_low=float(low), ci95_high=float(high))
