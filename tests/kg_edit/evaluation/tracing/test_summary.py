"""Averages by role and their intervals, worked out by hand; the pictures that show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.errors import OutputError
from kg_edit.evaluation.tracing.summary import LocateSummary, draw_summary, draw_trace
from kg_edit.evaluation.tracing.trace import BEFORE, END, FIRST, LAST, MIDDLE, NEXT, ROLES, Trace


def trace_of(name: str, *rows: tuple[str, list[float]], corrupted: float = 0.1) -> Trace:
    return Trace(
        id=name,
        prompt="p",
        answer=" $x_1$",
        known=None,
        kind="mlp",
        window=2,
        tokens=tuple(f"t{index}" for index in range(len(rows))),
        roles=tuple(role for role, _ in rows),
        clean=0.9,
        corrupted=corrupted,
        restored=tuple(tuple(value + corrupted for value in effects) for _, effects in rows),
    )


ONE = trace_of("1", (BEFORE, [9, 9, 9]), (FIRST, [0.1, 0, 0]), (LAST, [0.1, 0.4, 0.2]), (END, [0, 0, 0.5]))
TWO = trace_of(
    "2", (FIRST, [0.3, 0, 0]), (MIDDLE, [0.2, 0, 0]), (MIDDLE, [0.4, 0, 0.2]), (LAST, [0.5, 0.4, 0]), (END, [0, 0, 0.3])
)


def test_summary_means_are_over_tokens_then_over_facts() -> None:
    summary = LocateSummary.of([ONE, TWO], failed={"x": "why"}, unknown=("y",))
    assert tuple(summary.roles) == ROLES
    assert summary.roles[FIRST].mean == pytest.approx([0.2, 0, 0])
    assert summary.roles[LAST].mean == pytest.approx([0.3, 0.4, 0.1])
    assert summary.roles[MIDDLE].mean == pytest.approx([0.3, 0, 0.1])
    assert (summary.roles[MIDDLE].facts, summary.roles[LAST].facts, summary.roles[NEXT].facts) == (1, 2, 0)
    assert summary.roles[NEXT].mean == (None, None, None)
    assert (summary.peak.layer, summary.peak.effect) == (1, pytest.approx(0.4))
    assert (summary.clean, summary.corrupted, summary.facts) == (pytest.approx(0.9), pytest.approx(0.1), 2)


def test_summary_of_two_facts_has_no_interval() -> None:
    summary = LocateSummary.of([ONE, TWO])
    assert summary.roles[LAST].ci95_low == (None, None, None)
    assert (summary.peak.ci95, summary.peak.share) == (None, None)


def test_summary_interval_is_empty_for_equal_facts() -> None:
    same = LocateSummary.of([ONE.model_copy(update={"id": str(index)}) for index in range(6)])
    assert (same.peak.layer, same.peak.ci95, same.peak.share) == (1, (1, 1), 1.0)
    assert same.roles[LAST].ci95_low == pytest.approx([0.1, 0.4, 0.2])
    assert same.roles[LAST].ci95_high == pytest.approx([0.1, 0.4, 0.2])
    mixed = [trace_of(str(index), (LAST, [0.4, 0, 0] if index % 2 else [0, 0, 0.5])) for index in range(6)]
    doubt = LocateSummary.of(mixed, seed=3)
    assert LocateSummary.of(mixed, seed=-3).peak.layer == doubt.peak.layer
    assert (doubt.peak.layer, doubt.peak.ci95) == (2, (0, 2))
    assert doubt.peak.share is not None
    assert 0.4 < doubt.peak.share < 0.9
    low, high = doubt.roles[LAST].ci95_low[2], doubt.roles[LAST].ci95_high[2]
    assert low is not None
    assert high is not None
    assert 0 <= low < 0.25 < high <= 0.5
    assert LocateSummary.of(mixed, seed=3) == doubt


@pytest.mark.slow
def test_summary_and_trace_are_drawn(tmp_path: Path) -> None:
    summary = LocateSummary.of([ONE, TWO])
    svg = draw_summary(summary, tmp_path / "all.svg", model="my/$t^$iny").read_text()
    assert [svg.index(role) for role in (FIRST, MIDDLE, LAST, END)] == sorted(
        svg.index(role) for role in (FIRST, MIDDLE, LAST, END)
    )
    assert NEXT not in svg
    assert "mean of 2 facts" in svg
    again = LocateSummary.model_validate_json(summary.model_dump_json())
    assert draw_summary(again, tmp_path / "again.svg", model="my/$t^$iny").read_text() == svg
    assert "my/$t^$iny: MLP output" in svg  # no formula
    drawn = draw_trace(ONE, tmp_path / "one.svg").read_text()
    assert all(name in drawn for name in ("t0", "t1*", "t2*", "$x_1$", "2 layers at once"))
    assert draw_trace(ONE, tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError):
        draw_trace(ONE, tmp_path / "one.txt")
