"""A sweep as a picture: lines over one axis of numbers, a heat map over two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kg_edit.evaluate.metrics.catalogue import CATALOGUE
from kg_edit.evaluate.plots import COLOURS, figure, save_figure
from kg_edit.sweep.run import Outcome
from kg_edit.sweep.table import caption

Grid = Mapping[str, Sequence[Any]]  # axis -> its values


def draw_sweep(outcomes: Sequence[Outcome], metrics: Sequence[str], path: Path) -> Path:
    """Draw a panel a metric.

    One axis, or one of numbers with one of names (a line a name), makes lines with 95 % intervals and the unedited
    model's score; two others make a heat map. Each combination of values of further axes has a row of panels of its
    own. Axes of one value are left out.

    Raises:
        OutputError: the file can't be written, or its ending names no format.
    """
    grid = _grid(outcomes)
    lines = len(grid) == 1 or (len(grid) == 2 and sum(map(_is_numeric, grid.values())) == 1)
    shown = {axis: grid[axis] for axis in sorted(grid, key=lambda axis: lines and not _is_numeric(grid[axis]))[:2]}
    rows = _rows(outcomes, [axis for axis in grid if axis not in shown])
    drawn = figure(3.8 * len(metrics), 3.3 * len(rows) + 0.4)
    panels = drawn.subplots(len(rows), len(metrics), squeeze=False)
    for row, (title, some) in zip(panels, rows.items(), strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            (_lines if lines else _heat_map)(panel, some, shown, metric)
            panel.set_title("\n".join(filter(None, [_named(metric), title])), fontsize=9)
    drawn.suptitle(caption(outcomes), fontsize=10)
    return save_figure(drawn, path)


def _grid(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """The axes that have several values; the first one where none has."""
    found: dict[str, dict[str, Any]] = {axis: {} for axis in outcomes[0].cell.values}
    for outcome in outcomes:
        for axis, value in outcome.cell.values.items():
            found[axis][str(value)] = value
    several = {axis: list(values.values()) for axis, values in found.items() if len(values) > 1}
    first = next(iter(found))
    return several or {first: list(found[first].values())}


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _rows(outcomes: Sequence[Outcome], axes: Sequence[str]) -> dict[str, list[Outcome]]:
    """The outcomes by their values on ``axes``."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        name = ", ".join(f"{axis} {outcome.cell.values[axis]}" for axis in axes)
        found.setdefault(name, []).append(outcome)
    return found


def _named(metric: str) -> str:
    better = CATALOGUE[metric].better if metric in CATALOGUE else "neither"
    return metric if better == "neither" else f"{metric} ({better} is better)"


def _lines(panel: Axes, outcomes: Sequence[Outcome], shown: Grid, metric: str) -> None:
    axis, *names = shown
    for (name, some), colour in zip(_rows(outcomes, names).items(), COLOURS * len(outcomes), strict=False):
        places = [_place(outcome, axis, shown[axis]) for outcome in some]
        mean, low, high = (_numbers(some, metric, end) for end in ("mean", "ci95_low", "ci95_high"))
        panel.plot(places, mean, color=colour, marker="o", ms=4, label=name or "edited")
        panel.fill_between(places, low, high, color=colour, alpha=0.15, lw=0)
    base = outcomes[0].summary.base.get(metric)
    if base is not None and base.mean is not None:
        panel.axhline(base.mean, color="#999999", ls="--", lw=1, label="unedited")
    labels = None if _is_numeric(shown[axis]) else list(map(str, shown[axis]))
    panel.set_xticks(list(shown[axis]) if labels is None else range(len(labels)), labels)
    panel.set_xlabel(axis)
    panel.legend(fontsize=7, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)


def _place(outcome: Outcome, axis: str, values: Sequence[Any]) -> float:
    """Where a cell stands on an axis: at its number, or in its turn."""
    value = outcome.cell.values[axis]
    return float(value) if _is_numeric(values) else float(values.index(value))


def _numbers(outcomes: Sequence[Outcome], metric: str, end: str) -> list[float]:
    """One end of each cell's estimate; NaN where there is none."""
    found = [outcome.summary.edited.get(metric) for outcome in outcomes]
    values = [None if estimate is None else getattr(estimate, end) for estimate in found]
    return [float("nan") if value is None else float(value) for value in values]


def _heat_map(panel: Axes, outcomes: Sequence[Outcome], shown: Grid, metric: str) -> None:
    (down, rows), (across, columns) = shown.items()
    table = np.full((len(rows), len(columns)), np.nan)
    for outcome, mean in zip(outcomes, _numbers(outcomes, metric, "mean"), strict=True):
        table[rows.index(outcome.cell.values[down]), columns.index(outcome.cell.values[across])] = mean
    panel.imshow(table, cmap="viridis", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2 if np.isfinite(table).any() else 0.0
    for (y, x), value in np.ndenumerate(table):
        text = "\N{EN DASH}" if np.isnan(value) else f"{value:.3g}"
        panel.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if value < middle else "black")
    panel.set_xticks(range(len(columns)), list(map(str, columns)))
    panel.set_yticks(range(len(rows)), list(map(str, rows)))
    panel.set_xlabel(across)
    panel.set_ylabel(down)
