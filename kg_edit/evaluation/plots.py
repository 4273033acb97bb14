"""Plot the curve of a sequential run; the same figure gives the same file, byte for byte.

The plot shows over the number of edits: retention of earlier edits, locality, and general ability.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kg_edit.errors import OutputError
from kg_edit.evaluation.metrics.catalogue import find_metric
from kg_edit.evaluation.settings import method_in_words
from kg_edit.evaluation.statistics import Estimate
from kg_edit.evaluation.summary import CurvePoint, Summary
from kg_edit.scoring.perplexity import PERPLEXITY
from kg_edit.storage.atomic import replacing

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e5ea2", "#e08e1b", "#4d4d4d")
_FORMATS = (".png", ".svg", ".pdf")
_PANELS = {
    "retention: records edited so far": ("efficacy.", "paraphrase.", "portability.greedy", "multihop."),
    "locality: what must not change": ("neighborhood.", "locality."),
}
_FAR = 5  # the axis is logarithmic if the highest perplexity is more than this many times the lowest


def is_share(metric: str) -> bool:
    """Return whether a metric lies between 0 and 1 and can share an axis with others; true for an unknown metric."""
    listed = find_metric(metric)
    return listed is None or listed.values == "0 to 1"


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of the given size in inches, without a window and without pyplot's global state."""
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    return fig


def legend_below(axes: Axes) -> None:
    """Put the legend of a panel below its horizontal axis and the axis labels; $ in a name begins no formula."""
    height = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    anchor = (0.0, -0.48 / max(height, 0.5))  # 0.48 inches for the labels
    legend = axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=anchor, borderaxespad=0)
    for text in legend.get_texts():  # the group of a user's own probes is in a metric's name
        text.set_parse_math(False)


def save_figure(drawn: Figure, path: Path) -> Path:
    """Write a figure as PNG, SVG or PDF, atomically."""
    kind = path.suffix.casefold()
    if kind not in _FORMATS:
        raise OutputError(f"can't draw {path}: expected a file name that ends in {' or '.join(_FORMATS)}")
    # the metadata that would differ between two runs or versions
    stamp = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}[kind]
    with replacing(path) as scratch, rc_context({"svg.hashsalt": "kg-edit", "svg.fonttype": "none"}):
        drawn.savefig(scratch, format=kind[1:], dpi=150, metadata=stamp)
    return path


def draw_curve(summary: Summary, path: Path) -> Path:
    """Draw the run's curve, with panels for retention, locality, tasks and general ability as far as it has them."""
    points = summary.curve or ()
    panels = _score_panels(points)
    tasks = _list_tasks(points)
    has_ability = any(PERPLEXITY in point.general or point.general_failed for point in points)

    # The panels stand in a row, from left to right: scores, then tasks, then ability.
    legend_lines = max([len(names) for names in (*panels.values(), tasks)], default=0)
    count = len(panels)
    if tasks:
        count += 1
    if has_ability:
        count += 1
    count = max(1, count)
    drawn = figure(4.6 * count, 3.4 + 0.14 * legend_lines)
    row_of_axes = drawn.subplots(1, count, squeeze=False)[0]
    for axes, (title, names) in zip(row_of_axes, panels.items(), strict=False):
        _plot_scores(axes, points, names)
        axes.set_title(title, fontsize=10)
    if tasks:
        _plot_tasks(row_of_axes[len(panels)], points, tasks)
    if has_ability:
        _plot_ability(row_of_axes[-1], points)
    for axes in row_of_axes:
        axes.set_xlabel("edits in the model")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    run = summary.provenance
    title = f"{method_in_words(run)} on {run['model']['name']}, {run['schedule']}"
    drawn.suptitle(title, fontsize=11, parse_math=False)  # a folder's name may have $ in it
    return save_figure(drawn, path)


def _score_panels(points: Sequence[CurvePoint]) -> dict[str, list[str]]:
    """Return the metrics of each panel: those from 0 to 1 of the panel's families that have a mean at some point."""
    with_mean = dict[str, None]()  # in order, each once
    for point in points:
        with_mean |= dict.fromkeys(name for name, score in point.scores.items() if score.mean is not None)
    panels = dict[str, list[str]]()
    for title, starts in _PANELS.items():
        names = [name for name in with_mean if name.startswith(starts) and is_share(name)]
        if names:
            panels[title] = names
    return panels


def _list_tasks(points: Sequence[CurvePoint]) -> list[str]:
    """Return the metrics of tasks whose values lie between 0 and 1 at every point, as accuracies do."""
    values: dict[str, list[float]] = {}
    for point in points:
        for name, value in point.general.items():
            series = values.setdefault(name, [])
            if value is not None:
                series.append(value)
    values.pop(PERPLEXITY, None)
    shares = []
    for name, series in values.items():
        if series and all(0 <= value <= 1 for value in series):
            shares.append(name)
    return shares


def _plot_tasks(axes: Axes, points: Sequence[CurvePoint], names: Sequence[str]) -> None:
    for name, colour in zip(names, COLOURS * len(names), strict=False):
        at, shares = _select_measured(points, name)
        axes.plot(at, shares, color=colour, marker="o", ms=3, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_title("general tasks", fontsize=10)
    legend_below(axes)


def _plot_scores(axes: Axes, points: Sequence[CurvePoint], names: Sequence[str]) -> None:
    for name, colour in zip(names, COLOURS * len(names), strict=False):
        _plot_metric(axes, points, name, colour)
    axes.plot([], [], color="black", lw=0.8, ls=":", label="unedited model, the same records")
    broken = [point.edits for point in points if point.failed]
    if broken:
        label = "some records could not be scored"
        axes.plot(broken, [0.0] * len(broken), color="black", marker="x", ls="", clip_on=False, label=label)
    axes.set_ylim(0, 1.02)
    legend_below(axes)


def _plot_metric(axes: Axes, points: Sequence[CurvePoint], name: str, colour: str) -> None:
    """Plot a metric's means with their intervals, and the unedited model's means as a dotted line.

    The points of a curve are about different records. So a metric may also change because the records do, and the
    dotted line shows how much: it is the unedited model on the same records. A metric that compares the edited with
    the unedited model has no dotted line.
    """
    edited = _read_line([(point.edits, point.scores.get(name)) for point in points])
    axes.plot(edited.edits, edited.means, color=colour, marker="o", ms=3, label=name)
    axes.fill_between(edited.edits, edited.low, edited.high, color=colour, alpha=0.15, lw=0)

    unedited = _read_line([(point.edits, point.unedited.get(name)) for point in points])
    axes.plot(unedited.edits, unedited.means, color=colour, lw=0.8, ls=":")


class _Line(NamedTuple):
    """The means of a metric along the curve, and the ends of their intervals."""

    edits: list[int]
    means: list[float]
    low: list[float]
    high: list[float]


def _read_line(estimates: Iterable[tuple[int, Estimate | None]]) -> _Line:
    """Return the line of a metric from its estimate at each number of edits; points without a mean are left out."""
    line = _Line([], [], [], [])
    for edits, estimate in estimates:
        if estimate is None or estimate.mean is None:
            continue
        line.edits.append(edits)
        line.means.append(estimate.mean)
        line.low.append(_read_number(estimate.ci95_low))
        line.high.append(_read_number(estimate.ci95_high))
    return line


def _plot_ability(axes: Axes, points: Sequence[CurvePoint]) -> None:
    at, values = _select_measured(points, PERPLEXITY)
    axes.plot(at, values, color=COLOURS[0], marker="o", ms=3)
    broken = [point.edits for point in points if point.general_failed]
    for edits in broken:
        axes.axvline(edits, color=COLOURS[1], ls=":", lw=1)
    if values and max(values) > _FAR * min(values):
        axes.set_yscale("log")
    title = f"general ability: {PERPLEXITY}"
    if broken:
        title += " (dotted: none)"
    axes.set_title(title, fontsize=10)


def _select_measured(points: Sequence[CurvePoint], name: str) -> tuple[list[int], list[float]]:
    """Return the numbers of edits at which general ability has this part, and its values there."""
    at = []
    values = []
    for point in points:
        value = point.general.get(name)
        if value is not None:
            at.append(point.edits)
            values.append(value)
    return at, values


def _read_number(value: float | None) -> float:
    """Return a value; NaN, which is not drawn, for None."""
    return float("nan") if value is None else value
