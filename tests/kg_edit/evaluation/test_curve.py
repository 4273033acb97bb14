"""The curve of a sequence on scores made by hand."""

from __future__ import annotations

import pytest

from kg_edit.evaluation.records import Point, RunRecord
from kg_edit.evaluation.schedule import CurvePlan, Schedule
from kg_edit.evaluation.summary import make_curve

Scores = dict[str, float | None]


def row(efficacy: float, neighbour: float) -> Scores:
    return {"efficacy.greedy": efficacy, "neighborhood.prob": neighbour}


# Two sequences of two edits each; the second edit of each undoes the first.
RECORDS = {
    name: RunRecord(id=name, sha256="s", scores=scores)
    for name, scores in {
        "a": {"base": row(0, 1), "after:1": row(1, 1), "edited": row(0, 0.5)},
        "b": {"base": row(0, 0.5), "edited": row(1, 0.5)},
        "c": {"base": row(0, 1), "after:1": row(1, 0.5), "edited": row(0, 0)},
        "d": {"base": row(0, 0), "edited": row(1, 0)},
    }.items()
}
POINTS = [
    Point(sequence=sequence, edits=edits, scores={"general.perplexity": value})
    for sequence, edits, value in ((0, 0, 20.0), (0, 1, 22.0), (0, 2, 30.0), (1, 0, 20.0), (1, 1, 24.0))
] + [Point(sequence=1, edits=2, scores={}, error="ModelError: not finite")]


def test_curve_by_hand() -> None:
    plan = CurvePlan.of(Schedule.parse("sequential:2"))
    before, first, last = make_curve([("a", "b"), ("c", "d")], RECORDS, POINTS, plan=plan, seed=0)
    assert [(point.edits, point.n) for point in (before, first, last)] == [(0, 4), (1, 2), (2, 4)]
    efficacy = [point.scores["efficacy.greedy"].mean for point in (before, first, last)]
    assert efficacy == [0, 1, 0.5]
    unedited = [point.unedited["neighborhood.prob"].mean for point in (before, first, last)]
    assert unedited == [0.625, 1, 0.625], "of the records of each point"
    assert [point.retention["retention.ERR"] for point in (before, first, last)] == [0, 1, 0.5]
    assert all(set(point.retention) == {"retention.ERR"} for point in (before, first, last)), "no test file"
    assert [point.general["general.perplexity"] for point in (before, first, last)] == [20, 23, 30]
    assert [point.general_failed for point in (before, first, last)] == [0, 0, 1]


def test_record_whose_model_is_broken_counts_as_0() -> None:
    scores = {"base": row(0, 1), "edited": {"efficacy.greedy": 0.0}}
    broken = {**RECORDS, "b": RunRecord(id="b", sha256="s", error="ModelError", broken=("edited",), scores=scores)}
    plan = CurvePlan.of(Schedule.parse("sequential:2"))
    last = make_curve([("a", "b")], broken, [], plan=plan, seed=0)[-1]
    assert (last.n, last.failed) == (2, 1)
    assert last.scores["efficacy.greedy"].mean == 0
    assert last.general == {}
    assert last.retention == {"retention.ERR": 0}
    with_one_that_holds = {**broken, "a": RECORDS["b"].model_copy(update={"id": "a"})}
    held = make_curve([("a", "b")], with_one_that_holds, [], plan=plan, seed=0)[-1]
    assert held.scores["efficacy.greedy"].mean == 0.5 and held.retention == {"retention.ERR": 0.5}


def test_record_that_even_the_unedited_model_fails_on_is_in_no_point() -> None:
    broken = {**RECORDS, "b": RunRecord(id="b", sha256="s", error="PromptError")}
    plan = CurvePlan.of(Schedule.parse("sequential:2"))
    points = make_curve([("a", "b")], broken, [], plan=plan, seed=0)
    assert [(point.edits, point.n, point.failed) for point in points] == [(0, 1, 0), (1, 1, 0), (2, 1, 0)]
    assert points[-1].retention["retention.ERR"] == pytest.approx(0)


def test_model_that_its_edits_broke_has_rates_of_0_and_no_perplexity() -> None:
    names = ("retention.TRR", "retention.TRR.perplexity")
    points = [
        Point(sequence=sequence, edits=edits, scores=dict(zip(names, values, strict=True)))
        for sequence, edits, values in ((0, 0, (1.0, 5.0)), (1, 0, (0.5, 7.0)), (0, 2, (1.0, 6.0)))
    ]
    broken = Point(sequence=1, edits=2, scores={}, error="ModelError: not finite")
    plan = CurvePlan.of(Schedule.parse("sequential:2"), every=2)
    before, last = make_curve([("a", "b"), ("c", "d")], RECORDS, [*points, broken], plan=plan, seed=0)
    assert before.retention == dict(zip(names, (0.75, 6.0), strict=True)) and before.general == {}
    assert last.retention == dict(zip(names, (0.5, None), strict=True)) and last.general_failed == 1
