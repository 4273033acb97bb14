"""A comparison as a picture: each metric's difference with its interval, and the line at which there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from kg_edit.evaluate.comparison import Comparison, MetricRow
from kg_edit.evaluate.plots import COLOURS, figure, is_share, save_figure


def draw_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw the differences; metrics that are no shares, such as nats, have a panel of their own.

    Raises:
        OutputError: the file can't be written.
    """
    shares = [row for row in comparison.rows if is_share(row.metric)]
    others = [row for row in comparison.rows if not is_share(row.metric)]
    panels = [rows for rows in (shares, others) if rows] or [[]]
    heights = [len(rows) + 1.2 for rows in panels]
    drawn = figure(7.2, 0.34 * sum(heights) + 1.1)
    axes = drawn.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, rows in zip(axes, panels, strict=True):
        _panel(axis, rows, comparison.sides[1:])
    axes[0].legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    axes[-1].set_xlabel(f"difference to {comparison.sides[0]}, {comparison.records} records; filled: found")
    return save_figure(drawn, path)


def _panel(axes: Axes, rows: Sequence[MetricRow], sides: Sequence[str]) -> None:
    axes.axvline(0, color="#999999", lw=1)
    for number, (side, colour) in enumerate(zip(sides, COLOURS * len(sides), strict=False)):
        label: str | None = side
        for place, row in enumerate(rows):
            found = row.differences.get(side)
            if found is None:
                continue
            at = place + 0.5 * (number + 0.5) / len(sides) - 0.25
            axes.plot([found.ci95_low, found.ci95_high], [at, at], color=colour, lw=1.5)
            face = colour if found.is_found else "white"
            axes.plot([found.mean], [at], marker="o", ms=5, mec=colour, mfc=face, ls="", label=label)
            label = None
    axes.set_yticks(range(len(rows)), [row.metric for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
