"""The plot of a run's curve: which lines are in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from kg_edit.evaluation import plots
from kg_edit.evaluation.statistics import Estimate
from kg_edit.evaluation.summary import CurvePoint, Summary


def estimate(mean: float | None) -> Estimate:
    return Estimate(mean=mean, ci95_low=None, ci95_high=None)


def summary(model: str, name: str = "locality.greedy") -> Summary:
    """Two points of a run on zsRE: nothing can be unchanged on the unedited model itself."""
    points = tuple(
        CurvePoint(
            edits=edits,
            n=2,
            scores={"locality.unchanged": estimate(mean), name: estimate(0.5)},
            unedited={"locality.unchanged": estimate(None), name: estimate(0.75)},
            retention={},
            general={},
        )
        for edits, mean in ((0, None), (2, 0.5))
    )
    provenance = {"method": "rome", "model": {"name": model}, "schedule": "sequential:2"}
    return Summary(n=2, base={}, edited={}, curve=points, seconds_per_edit=None, provenance=provenance)


def test_metric_without_a_value_of_the_unedited_model_has_no_line_at_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = list[Figure]()
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure) or path)
    plots.draw_curve(summary("tiny"), tmp_path / "curve.svg")
    (axes,) = drawn[0].axes
    dotted = [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert dotted == [[0.75, 0.75]]


def test_model_in_a_folder_with_dollar_signs_is_drawn(tmp_path: Path) -> None:
    assert plots.draw_curve(summary("/data/$a_$b"), tmp_path / "curve.svg").is_file()


def test_group_of_probes_with_dollar_signs_is_drawn(tmp_path: Path) -> None:
    name = "locality.a$^$b.greedy"
    drawn = plots.draw_curve(summary("tiny", name), tmp_path / "curve.svg").read_text()
    assert f"{name}<" in drawn
