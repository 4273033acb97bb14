"""Reports of a comparison of runs: tables for the terminal, in Markdown, LaTeX, CSV or JSON, and a plot.

The plot has each metric's difference with its interval, and the line of no difference.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from kg_common.terminal import number_of
from kg_edit.errors import ConfigError
from kg_edit.evaluation.comparison import Comparison, MetricRow
from kg_edit.evaluation.metrics.catalogue import find_metric
from kg_edit.evaluation.plots import COLOURS, figure, is_share, save_figure
from kg_edit.evaluation.reports import Cells, as_markdown, difference_cells, format_number
from kg_edit.evaluation.statistics import RESAMPLES, Difference, Estimate
from kg_edit.storage.atomic import write_json, write_text
from kg_edit.storage.frames import csv_of
from kg_edit.text.display import plain, terminal_table

if TYPE_CHECKING:
    from rich.table import Table

_CAPTION = 100  # characters of 8 points, of which 115 are as wide as the figure


def draw_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw the differences; metrics that are no shares, such as nats, get a panel of their own."""
    shares = [row for row in comparison.rows if is_share(row.metric)]
    others = [row for row in comparison.rows if not is_share(row.metric)]
    panels = [rows for rows in (shares, others) if rows]
    if not panels:
        panels = [[]]  # one panel without metrics
    heights = [len(rows) + 1.2 for rows in panels]
    drawn = figure(7.2, 0.34 * sum(heights) + 1.1)
    axes = drawn.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]  # the only column
    for axis, rows in zip(axes, panels, strict=True):
        _draw_panel(axis, rows, comparison.sides[1:])
    axes[0].legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    about = (
        f"difference to {comparison.sides[0]}, {number_of(comparison.records, 'record')}; "
        "filled dot: significant (p < 0.05 after Holm)"
    )
    lines = textwrap.wrap(about, _CAPTION)
    for line in comparison.lines:
        lines += textwrap.wrap(line, _CAPTION)
    # Below the whole figure: a label of the axes begins right of the metrics' names, and would run over the edge.
    drawn.supxlabel(_escape_math("\n".join(lines)), fontsize=8)
    return save_figure(drawn, path)


def _draw_panel(axes: Axes, rows: Sequence[MetricRow], sides: Sequence[str]) -> None:
    """Draw the metrics from top to bottom; the sides of a metric lie below each other in the middle half of its row."""
    axes.axvline(0, color="#999999", lw=1)
    for number, side in enumerate(sides):
        colour = COLOURS[number % len(COLOURS)]
        label: str | None = _escape_math(side)
        if side.startswith("_"):  # a legend leaves out such names
            label = f" {label}"
        for index, row in enumerate(rows):
            change = row.differences.get(side)
            if change is None:
                continue
            height = index - 0.25 + 0.5 * (number + 0.5) / len(sides)  # from index - 0.25 to index + 0.25
            if change.ci95_low is not None and change.ci95_high is not None:
                axes.plot([change.ci95_low, change.ci95_high], [height, height], color=colour, lw=1.5)
            face = "white"
            if change.is_found:
                face = colour
            axes.plot([change.mean], [height], marker="o", ms=5, mec=colour, mfc=face, ls="", label=label)
            label = None  # one entry of the legend for each side
    axes.set_yticks(
        range(len(rows)), [_escape_math(f"{row.metric}{_choose_arrow(row.metric)}") for row in rows], fontsize=8
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _escape_math(text: str) -> str:
    """Return a text in which matplotlib reads no formula: the names of folders and of groups are the user's."""
    return text.replace("$", r"\$")


def _mark(metric: str, change: Difference) -> str:
    """Return how a significant difference is marked in a table: bold if better, † if worse, ‡ if neither is known."""
    arrow = _choose_arrow(metric)
    if not arrow:
        return "‡"
    is_better = change.mean > 0 if arrow == " ↑" else change.mean < 0
    return "Bold" if is_better else "†"


_ESCAPED = str.maketrans(
    {"↑": "$\\uparrow$", "↓": "$\\downarrow$", "†": "$^{\\dagger}$", "‡": "$^{\\ddagger}$"}
    | {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"~": "\\textasciitilde{}", "^": "\\^{}", "\\": "\\textbackslash{}"}
    | {mark: f"${mark}$" for mark in "<>|"}
)


def markdown(comparison: Comparison) -> str:
    """Return a Markdown table; a significant difference is bold."""
    table = _tabulate(comparison)
    parts = [*comparison.lines, as_markdown(table.header, table.rows), caption(comparison)]
    return "\n\n".join(parts) + "\n"


def _make_bold(text: str) -> str:
    return f"**{text}**"


def _add_star(text: str) -> str:
    return f"{text} *"


def latex(comparison: Comparison) -> str:
    """Return a LaTeX table for the package booktabs: one tabular, in which each metric has a line for each run.

    A line has the mean, the paired difference to the first run, both with 95 % intervals, and p. If the difference is
    significant, a better mean is bold, and a worse one has a dagger.
    """
    header = ["", "mean", f"difference to {comparison.sides[0]}".translate(_ESCAPED), "$p$"]
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small"]
    lines += [r"\begin{tabular}{lrrr}", r"\toprule", _write_latex_row(header)]
    for row in comparison.rows:
        lines += _write_latex_rows(row, comparison)
    text = " ".join([*comparison.lines, caption(comparison, means=True)])
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{text.translate(_ESCAPED)}}}", r"\end{table}", ""]
    return "\n".join(lines)


def _write_latex_rows(row: MetricRow, comparison: Comparison) -> list[str]:
    """Return the lines of a metric: its name, then one line for each run."""
    title = f"{row.metric}{_choose_arrow(row.metric)}"
    if row.n < comparison.records:
        title += f" (n = {row.n})"
    lines = [r"\midrule", _write_latex_row([rf"\multicolumn{{4}}{{l}}{{{title.translate(_ESCAPED)}}}"])]
    for side in comparison.shown:
        if side in row.means:
            name = rf"\quad {side.translate(_ESCAPED)}"
            difference, p = _write_latex_difference(row.differences.get(side))
            lines.append(_write_latex_row([name, _write_latex_cell(row, side), difference, p]))
    return lines


def _write_latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _write_latex_cell(row: MetricRow, side: str) -> str:
    """Return the mean of a run with its interval; bold, † or ‡ if its difference to the first run is significant."""
    estimate = row.means.get(side)
    change = row.differences.get(side)
    if estimate is None or estimate.mean is None:
        return ""
    text = _write_latex_number(estimate.mean)
    if change and change.is_found:
        mark = _mark(row.metric, change)
        if mark == "Bold":
            text = rf"\textbf{{{text}}}"
        else:
            text += mark.translate(_ESCAPED)
    return text + _write_latex_interval(estimate)


def _write_latex_difference(change: Difference | None) -> tuple[str, str]:
    """Return the difference to the first run with its interval, and p; "" for the first run itself."""
    if change is None:
        return "", ""
    p = "$<$.001" if change.p < 0.001 else f"{change.p:.3f}"
    return _write_latex_number(change.mean, "+") + _write_latex_interval(change, "+"), p


def _write_latex_interval(value: Estimate | Difference, sign: str = "") -> str:
    if value.ci95_low is None or value.ci95_high is None:
        return ""
    ends = f"{_write_latex_number(value.ci95_low, sign)}, {_write_latex_number(value.ci95_high, sign)}"
    return rf" {{\scriptsize [{ends}]}}"


def _write_latex_number(value: float, sign: str = "") -> str:
    return format_number(value, sign).replace("-", "$-$")


def rich_comparison(comparison: Comparison) -> Table:
    """Return the table of a comparison for the terminal, one line for each metric and run.

    A star marks a significant difference.
    """
    rows = []
    for row in comparison.rows:
        rows.append([f"{row.metric}{_choose_arrow(row.metric)}", f"n={row.n}", "", ""])
        for side in comparison.shown:
            if side in row.means:
                difference, p = difference_cells(row.differences.get(side), _add_star)
                rows.append([f"  {side}", _write_mean(row, side), difference, p])
    text = caption(comparison).replace("Bold:", "*:")
    # A run's name is that of its folder, which may look like rich's markup
    header = ["metric, run", "mean", f"- {plain(comparison.sides[0])}", "p"]
    return terminal_table(header, rows, numbers_from=1, caption=plain(text), caption_left=True, lines=False)


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write the comparison in the format of the ending of ``path``: .md, .tex, .csv, .json, .png, .svg or .pdf."""
    check_ending(path)
    return _WRITERS[path.suffix.casefold()](comparison, path)


def check_ending(path: Path) -> None:
    """Check that a comparison can be written in the format of the ending of ``path``."""
    if path.suffix.casefold() not in _WRITERS:
        raise ConfigError(
            f"can't write a comparison as {path}: expected a file name that ends in {' or '.join(_WRITERS)}"
        )


def caption(comparison: Comparison, *, means: bool = False) -> str:
    """Return the caption of a comparison, which explains its numbers, intervals and tests.

    Args:
        comparison: the comparison.
        means: the table marks significant differences at the runs' means, and not at the differences.
    """
    first = comparison.sides[0]
    marked = "Bold:"
    intervals = f"Differences to {first} are paired, with 95 % bootstrap intervals."
    if means:
        marked = f"{_explain_marks(comparison)}, if"
        intervals = "Means and paired differences, with 95 % bootstrap intervals."
    parts = [
        f"{number_of(comparison.records, 'record')}{comparison.setting}.",
        "↑: higher is better, ↓: lower.",
        intervals,
        marked,
        f"the paired difference to {first} has p below 0.05 after Holm's correction; two-sided p:",
        f"{_list_tests(comparison)}; {RESAMPLES:,} resamples, seed {comparison.seed}.",
    ]
    if not means:
        parts += _find_smallest(comparison)
    parts += [f"Note: {note}." for note in comparison.notes]
    return " ".join(parts)


_TESTS = {
    "McNemar": "exact McNemar test for 0-1 scores",
    "sign flips": "paired permutation test (sign flips) for others",
    "swaps": "paired permutation test (records swapped) for the editing score",
}


def _list_tests(comparison: Comparison) -> str:
    """Return the tests behind the p-values, in words."""
    used = set[str]()
    for row in comparison.rows:
        used.update(change.test for change in row.differences.values())
    return ", ".join(_TESTS[test] for test in sorted(used))


def _explain_marks(comparison: Comparison) -> str:
    """Return what the marks in a table of means say; † and ‡ only if some mean has them."""
    used = {"Bold"}
    for row in comparison.rows:
        used.update(_mark(row.metric, change) for change in row.differences.values() if change.is_found)
    meanings = {"Bold": "better", "†": "worse", "‡": "different, with no better direction"}
    return ", ".join(f"{mark}: {meaning}" for mark, meaning in meanings.items() if mark in used)


_FINDABLE = 1.43  # (1.96 + 0.84) / 1.96
_FEWEST = 6  # pairs for which a two-sided paired test can have p < 0.05: 2 / 2^6


def _find_smallest(comparison: Comparison) -> list[str]:
    """Return what could be found with 80 % power: 1.96 + 0.84 standard errors, for the widest interval of a share."""
    if comparison.records < _FEWEST:
        return [f"With fewer than {_FEWEST} records no difference has p below 0.05, however large it is."]
    width = 0.0  # half of the widest interval, 1.96 standard errors
    widest = None
    for row in comparison.rows:
        if not is_share(row.metric):
            continue
        for change in row.differences.values():
            if change.ci95_low is None or change.ci95_high is None:
                continue
            half = (change.ci95_high - change.ci95_low) / 2
            if half > width:
                width = half
                widest = row
    if widest is None:
        return []
    least = f"{format_number(_FINDABLE * width)} in {widest.metric}, the least certain share"
    return [
        f"With {number_of(widest.n, 'record')} a true difference of {least}, would be found in four of five "
        "comparisons (before Holm's correction), a smaller one more rarely."
    ]


def _tabulate(comparison: Comparison) -> Cells:
    """Return the cells of the Markdown table, with one row for each metric."""
    first, *others = comparison.sides
    header = ["metric", "n", *comparison.shown]
    for side in others:
        header += [f"{side} - {first}", "p"]
    rows = list[list[str]]()
    for row in comparison.rows:
        cells = [f"{row.metric}{_choose_arrow(row.metric)}", str(row.n)]
        cells += [_write_mean(row, side) for side in comparison.shown]
        for side in others:
            cells += difference_cells(row.differences.get(side), _make_bold)
        rows.append(cells)
    return Cells(header=header, rows=rows)


def _write_mean(row: MetricRow, side: str) -> str:
    """Return the mean of a side; "" if the unedited model lacks the metric."""
    if side not in row.means:
        return ""
    return format_number(row.means[side].mean or 0.0)


def _choose_arrow(metric: str) -> str:
    """Return an arrow up or down for the better direction; "" if neither is better, or the metric is unknown."""
    listed = find_metric(metric)
    if listed is None:
        return ""
    return {"higher": " ↑", "lower": " ↓"}.get(listed.better, "")


_WRITERS: Mapping[str, Callable[[Comparison, Path], Path]] = {
    ".md": lambda comparison, path: write_text(path, markdown(comparison)),
    ".tex": lambda comparison, path: write_text(path, latex(comparison)),
    ".csv": lambda comparison, path: write_text(path, csv_of(comparison.table)),
    ".json": lambda comparison, path: write_json(path, comparison.model_dump(mode="json")),
    ".png": draw_comparison,
    ".svg": draw_comparison,
    ".pdf": draw_comparison,
}
