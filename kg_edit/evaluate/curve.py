"""What becomes of a model while edits accumulate: the scores and the general ability after so many edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict

from kg_edit.evaluate.missing import phase_of
from kg_edit.evaluate.plan import Plan
from kg_edit.evaluate.records import BASE, Point, RunRecord
from kg_edit.evaluate.retention import accurate_retention, edit_retention, unrelated_retention
from kg_edit.evaluate.statistics import Estimate, Row, estimates, metric_names

Rows = Mapping[str, Row]
_EDIT, _NEIGHBOUR = "efficacy.greedy", "neighborhood.prob"


class CurvePoint(BaseModel):
    """The model with ``edits`` edits, over all sequences of a run that came so far.

    ``scores`` are means over ``n`` records among those edited so far (retention: do they still hold? locality: are
    their neighbours untouched?); ``failed`` of them could not be scored, as a model broken by edits can't be.
    ``retention`` are GRACE's rates: ERR of efficacy.greedy; TRR, and ARR (of those records that the unedited model has
    wholly right), of neighborhood.prob. ``general`` are means over sequences; ``general_failed`` counts those whose
    model could not be asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edits: int
    n: int
    failed: int = 0
    scores: dict[str, Estimate]
    retention: dict[str, float | None]
    general: dict[str, float | None]
    general_failed: int = 0


def curve(
    sequences: Sequence[Sequence[str]],
    records: Mapping[str, RunRecord],
    points: Iterable[Point],
    *,
    plan: Plan,
    seed: int,
) -> tuple[CurvePoint, ...]:
    """The points of the curve of a run with these ``sequences`` of ids; the first has no edits, and all records."""
    asked: dict[int, list[tuple[str, str]]] = {0: [(name, BASE) for names in sequences for name in names]}
    for names in sequences:
        for scoring in plan.scorings(len(names)):
            if scoring.on_curve:
                keys = [(names[place], phase_of(scoring)) for place in scoring.places]
                asked.setdefault(scoring.edits, []).extend(keys)
    general: dict[int, list[Point]] = {}
    for point in points:
        general.setdefault(point.edits, []).append(point)
    return tuple(_point(edits, asked[edits], records, general.get(edits, []), seed) for edits in sorted(asked))


def _point(
    edits: int, keys: Sequence[tuple[str, str]], records: Mapping[str, RunRecord], general: Sequence[Point], seed: int
) -> CurvePoint:
    usable = [(records[name], section) for name, section in keys if name in records and BASE in records[name].scores]
    rows = [record.scores[section] for record, section in usable if section in record.scores]
    names = dict.fromkeys(name for point in general for name in point.scores)
    now = {record.id: record.scores[section] for record, section in usable if section in record.scores}
    before = {record.id: record.scores[BASE] for record, _ in usable if record.id in now}
    return CurvePoint(
        edits=edits,
        n=len(usable),
        failed=len(usable) - len(rows),
        scores=estimates(rows, names=metric_names(rows), seed=seed),
        retention=_retention(now, before),
        general={name: _mean([point.scores.get(name) for point in general]) for name in names},
        general_failed=sum(point.error is not None for point in general),
    )


def _retention(now: Rows, before: Rows) -> dict[str, float | None]:
    edits, neighbours = _of(now, _EDIT), _of(now, _NEIGHBOUR)
    return {
        "retention.ERR": edit_retention(edits, tuple(edits)),
        "retention.TRR": unrelated_retention(neighbours),
        "retention.ARR": accurate_retention(neighbours, _of(before, _NEIGHBOUR)),
    }


def _of(rows: Rows, metric: str) -> dict[str, float | None]:
    return {name: row.get(metric) for name, row in rows.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None
