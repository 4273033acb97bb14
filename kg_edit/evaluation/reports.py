"""Reports for people: tables of a run's summary, and tables and plots of a comparison of runs.

A summary becomes a table for the terminal or in Markdown. A comparison becomes a table for the terminal, in Markdown,
LaTeX, CSV or JSON, or a plot of each metric's difference with its interval and the line of no difference.
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
from kg_edit.evaluation.general_tasks import PREFIX
from kg_edit.evaluation.metrics.catalogue import find_metric
from kg_edit.evaluation.plots import COLOURS, figure, is_share, save_figure
from kg_edit.evaluation.schedule import Schedule
from kg_edit.evaluation.settings import method_in_words
from kg_edit.evaluation.statistics import EDITING_SCORE, RESAMPLES, Difference, Estimate
from kg_edit.evaluation.summary import Summary
from kg_edit.storage.atomic import write_json, write_text
from kg_edit.storage.frames import csv_of
from kg_edit.text.display import markdown_table, plain, terminal_table

if TYPE_CHECKING:
    from rich.table import Table

_ROUNDING = 1e-12  # of means of shares in float64

_TITLES = {
    "base": "unedited",
    "just_edited": "right after its edit",
    "edited": "edited",
    "fact_in_prompt": "fact in prompt",
    "fact_and_relation_in_prompt": "fact and relation in prompt",
}


def render(summary: Summary) -> str:
    """Return a Markdown table with one row for each metric and 95 % intervals, and one of the general tasks.

    A cell is empty if no record has the metric. If only some records have it, their number is in the cell.
    """
    text = f"{_table(_cells(summary))}\n\n{_caption(summary)}\n"
    general = _general_cells(summary)
    if len(general) > 1:  # more than the header
        text += f"\n{_table(general)}\n\n{_general_caption(summary)}\n"
    return text


def _table(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table of the cells; the name of a run or of a user's group of probes may have a | in it."""
    escaped = []
    for row in cells:
        escaped.append([cell.replace("|", "\\|") for cell in row])
    return markdown_table(escaped[0], escaped[1:], numbers_from=1)


def rich_table(summary: Summary) -> Table:
    """Return the table of the metrics for the terminal."""
    header, *rows = _cells(summary)
    return terminal_table(header, rows, numbers_from=1, caption=plain(_caption(summary)))


def rich_general(summary: Summary) -> Table | None:
    """Return the table of the tasks for the terminal; None if no tasks were asked."""
    header, *rows = _general_cells(summary)
    return terminal_table(header, rows, numbers_from=1, caption=_general_caption(summary)) if rows else None


def _general_caption(summary: Summary) -> str:
    schedule = Schedule.parse(summary.provenance.get("schedule", "single"))
    edited = schedule.in_words(summary.n) if schedule.sequence > 1 else "mean over the records, each edited alone"
    return f"general tasks, the unedited and the edited model ({edited}); n documents, 95 % intervals"


def _cells(summary: Summary) -> list[list[str]]:
    keys = dict[str, None]()
    for estimates in summary.sections.values():
        keys |= dict.fromkeys(name for name, value in estimates.items() if value.mean is not None)
    names = sorted(keys, key=EDITING_SCORE.__eq__)  # the editing score last
    rows = []
    for name in names:
        row = [name]
        for section, estimates in summary.sections.items():
            count = summary.provenance["counts"][section].get(name, 0)
            text = interval(estimates.get(name))
            if text and count < summary.n:
                text = f"{text} (n = {count})"
            row.append(text)
        rows.append(row)
    return [["metric", *(_TITLES[section] for section in summary.sections)], *rows]


def _general_cells(summary: Summary) -> list[list[str]]:
    """One row for each metric of a task: unedited, edited, difference, p, number of documents."""
    rows = []
    for name, result in (summary.general or {}).items():
        numbers = []
        if result.n:
            numbers.append(str(result.n))
        if result.failed:
            numbers.append(f"{result.failed} broken")
        change = _difference(result.difference, str)
        before = interval(result.before)
        after = interval(result.after)
        rows.append([name.removeprefix(PREFIX), before, after, *change, ", ".join(numbers)])
    return [["task", "unedited", "edited", "difference", "p", "n"], *rows]


def interval(estimate: Estimate | None) -> str:
    """Return a mean with its interval: the mean alone if it has none, "" without a mean."""
    if estimate is None or estimate.mean is None:
        return ""
    if estimate.ci95_low is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} [{estimate.ci95_low:.3f}, {estimate.ci95_high:.3f}]"


def _caption(summary: Summary) -> str:
    run = summary.provenance
    schedule = Schedule.parse(run.get("schedule", "single"))
    how = _schedule_in_words(schedule)
    form = {True: ", asked in chat form", False: ", asked in plain text"}.get(run.get("chat", ""), "")
    like = "the model before the edit" if schedule.sequence == 1 else "the model without their edit"
    parts = [
        f"{method_in_words(run)} on {run['model']['name']}: "
        f"the edits of {number_of(summary.n, 'record')} made {how}{form}"
    ]
    unscored = run.get("unscored", 0)
    failed = run["failed"] - unscored
    if failed:
        parts.append(f"{failed} failed and count as {like}")
    if unscored:
        parts.append(f"{unscored} left out, as the unedited model can't be scored on them")
    if run.get("broken"):
        parts.append(f"{run['broken']} broke the model, and their shares count as 0")
    if summary.seconds_per_edit is not None:
        parts.append(f"{summary.seconds_per_edit:.1f} s a record")
    times = summary.seconds_per_answer
    if times is not None:
        parts.append(f"an answer takes {times['edited']:.3g} s, {times['base']:.3g} s before the edit")
    if summary.peak_memory is not None:
        parts.append(f"at most {summary.peak_memory / 1e9:.1f} GB of memory")
    return ", ".join(parts)


def _schedule_in_words(schedule: Schedule) -> str:
    """How the edits are made: "one at a time", or in batches, or on top of each other."""
    if schedule.sequence == 1:
        return "one at a time"
    words = []
    if schedule.batch > 1:
        words.append(f"in batches of {schedule.batch}")
    if schedule.has_steps:
        words.append(f"on top of earlier ones, the model is reset after {schedule.sequence}")
    return ", ".join(words)


_CAPTION = 100  # characters of 8 points, of which 115 are as wide as the figure


def draw_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw the differences; metrics that are no shares, such as nats, get a panel of their own."""
    shares = [row for row in comparison.rows if is_share(row.metric)]
    others = [row for row in comparison.rows if not is_share(row.metric)]
    panels = [rows for rows in (shares, others) if rows] or [[]]
    heights = [len(rows) + 1.2 for rows in panels]
    drawn = figure(7.2, 0.34 * sum(heights) + 1.1)
    axes = drawn.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, rows in zip(axes, panels, strict=True):
        _panel(axis, rows, comparison.sides[1:])
    axes[0].legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    about = (
        f"difference to {comparison.sides[0]}, {number_of(comparison.records, 'record')}; "
        "filled dot: significant (p < 0.05 after Holm)"
    )
    lines = textwrap.wrap(about, _CAPTION) + textwrap.wrap(comparison.schedules_line, _CAPTION)
    # Below the whole figure: a label of the axes begins right of the metrics' names, and would run over the edge.
    drawn.supxlabel(_no_math("\n".join(lines)), fontsize=8)
    return save_figure(drawn, path)


def _panel(axes: Axes, rows: Sequence[MetricRow], sides: Sequence[str]) -> None:
    axes.axvline(0, color="#999999", lw=1)
    for number, (side, colour) in enumerate(zip(sides, COLOURS * len(sides), strict=False)):
        # A legend leaves out names that begin with an underscore
        label: str | None = _no_math(f" {side}" if side.startswith("_") else side)
        for index, row in enumerate(rows):
            change = row.differences.get(side)
            if change is None:
                continue
            at = index + 0.5 * (number + 0.5) / len(sides) - 0.25
            if change.ci95_low is not None and change.ci95_high is not None:
                axes.plot([change.ci95_low, change.ci95_high], [at, at], color=colour, lw=1.5)
            face = colour if change.is_found else "white"
            axes.plot([change.mean], [at], marker="o", ms=5, mec=colour, mfc=face, ls="", label=label)
            label = None
    axes.set_yticks(range(len(rows)), [_no_math(f"{row.metric}{_arrow(row.metric)}") for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _no_math(text: str) -> str:
    """A text in which matplotlib reads no formula: a run's name is that of its folder, a group's name the user's."""
    return text.replace("$", r"\$")


def _mark(metric: str, change: Difference) -> str:
    """How a significant difference is marked in a table of means: Bold if better, † if worse, ‡ if neither is known."""
    better = {" ↑": 1, " ↓": -1}.get(_arrow(metric), 0) * change.mean
    if better > 0:
        return "Bold"
    return "†" if better < 0 else "‡"


_ESCAPED = str.maketrans(
    {"↑": "$\\uparrow$", "↓": "$\\downarrow$", "†": "$^{\\dagger}$", "‡": "$^{\\ddagger}$"}
    | {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"~": "\\textasciitilde{}", "^": "\\^{}", "\\": "\\textbackslash{}"}
    | {mark: f"${mark}$" for mark in "<>|"}
)


def markdown(comparison: Comparison) -> str:
    """Return a Markdown table; a significant difference is bold."""
    line = f"{comparison.schedules_line}\n\n" if comparison.schedules else ""
    table = _table(_compared_cells(comparison, bold=lambda text: f"**{text}**"))
    return f"{line}{table}\n\n{caption(comparison)}\n"


def latex(comparison: Comparison) -> str:
    """Return a LaTeX table for the package booktabs: one tabular, in which each metric has a line for each run.

    A line has the mean, the paired difference to the first run, both with 95 % intervals, and p. If the difference is
    significant, a better mean is bold, and a worse one has a dagger.
    """
    header = ["", "mean", f"difference to {comparison.sides[0]}".translate(_ESCAPED), "$p$"]
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small"]
    lines += [r"\begin{tabular}{lrrr}", r"\toprule", _latex_row(header)]
    for row in comparison.rows:
        title = f"{row.metric}{_arrow(row.metric)}" + (f" (n = {row.n})" if row.n < comparison.records else "")
        lines += [r"\midrule", _latex_row([rf"\multicolumn{{4}}{{l}}{{{title.translate(_ESCAPED)}}}"])]
        for side in comparison.shown:
            if side in row.means:
                difference = _latex_difference(row.differences.get(side))
                lines.append(_latex_row([rf"\quad {side.translate(_ESCAPED)}", _latex_cell(row, side), *difference]))
    text = f"{comparison.schedules_line} {caption(comparison, means=True)}".strip()
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{text.translate(_ESCAPED)}}}", r"\end{table}", ""]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(row: MetricRow, side: str) -> str:
    """The mean of a run with its interval, small; bold, † or ‡ if its difference to the first run is significant."""
    estimate = row.means.get(side)
    change = row.differences.get(side)
    if estimate is None or estimate.mean is None:
        return ""
    text = _latex_number(estimate.mean)
    if change and change.is_found:
        mark = _mark(row.metric, change)
        text = rf"\textbf{{{text}}}" if mark == "Bold" else f"{text}{mark.translate(_ESCAPED)}"
    return text + _latex_interval(estimate)


def _latex_difference(change: Difference | None) -> tuple[str, str]:
    """The difference to the first run with its interval, and p; "" for the first run itself."""
    if change is None:
        return "", ""
    p = "$<$.001" if change.p < 0.001 else f"{change.p:.3f}"
    return _latex_number(change.mean, "+") + _latex_interval(change, "+"), p


def _latex_interval(value: Estimate | Difference, sign: str = "") -> str:
    if value.ci95_low is None or value.ci95_high is None:
        return ""
    ends = f"{_latex_number(value.ci95_low, sign)}, {_latex_number(value.ci95_high, sign)}"
    return rf" {{\scriptsize [{ends}]}}"


def _latex_number(value: float, sign: str = "") -> str:
    return _number(value, sign).replace("-", "$-$")


def rich_comparison(comparison: Comparison) -> Table:
    """Return the table of a comparison for the terminal, one line for each metric and run.

    A star marks a significant difference.
    """
    rows = []
    for row in comparison.rows:
        rows.append([f"{row.metric}{_arrow(row.metric)}", f"n={row.n}", "", ""])
        for side in filter(row.means.__contains__, comparison.shown):
            cells = _difference(row.differences.get(side), lambda text: f"{text} *")
            rows.append([f"  {side}", _mean(row, side), *cells])
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
    changes = [(row, change) for row in comparison.rows for change in row.differences.values()]
    named = {
        "McNemar": "exact McNemar test for 0-1 scores",
        "sign flips": "paired permutation test (sign flips) for others",
        "swaps": "paired permutation test (records swapped) for the editing score",
    }
    tests = ", ".join(named[test] for test in sorted({change.test for _, change in changes}))
    first = comparison.sides[0]
    records = f"{number_of(comparison.records, 'record')}{comparison.setting}."
    significant = f"the paired difference to {first} has p below 0.05 after Holm's correction; two-sided p:"
    resampled = f"{tests}; {RESAMPLES:,} resamples, seed {comparison.seed}."
    notes = [f"Note: {note}." for note in comparison.notes]
    parts = [records, "↑: higher is better, ↓: lower."]
    if means:
        marks = {_mark(row.metric, change) for row, change in changes if change.is_found}
        kinds = {"Bold": "better", "†": "worse", "‡": "different, with no better direction"}
        marked = ", ".join(f"{mark}: {kind}" for mark, kind in kinds.items() if mark in marks or mark == "Bold")
        parts += [
            "Means and paired differences, with 95 % bootstrap intervals.",
            f"{marked}, if",
            significant,
            resampled,
        ]
    else:
        parts += [f"Differences to {first} are paired, with 95 % bootstrap intervals.", "Bold:", significant, resampled]
        parts += _smallest(comparison)
    return " ".join([*parts, *notes])


_FEWEST = 6  # pairs for which a two-sided paired test can have p < 0.05: 2 / 2^6


def _smallest(comparison: Comparison) -> list[str]:
    """What could have been found: (1.96 + 0.84) standard errors, 80 % power, for the widest interval of a share."""
    if comparison.records < _FEWEST:
        return [f"With fewer than {_FEWEST} records no difference has p below 0.05, however large it is."]
    width = 0.0  # half of the widest interval
    widest = None
    for row in filter(lambda row: is_share(row.metric), comparison.rows):
        for change in row.differences.values():
            if change.ci95_low is None or change.ci95_high is None:
                continue
            half = (change.ci95_high - change.ci95_low) / 2
            if half > width:
                width = half
                widest = row
    if widest is None:
        return []
    least = f"{_number(1.43 * width)} in {widest.metric}, the least certain share"
    return [
        f"With {number_of(widest.n, 'record')} a true difference of {least}, would be found in four of five "
        "comparisons (before Holm's correction), a smaller one more rarely."
    ]


def _compared_cells(comparison: Comparison, *, bold: Callable[[str], str]) -> list[list[str]]:
    first, *others = comparison.sides
    header = ["metric", "n", *comparison.shown]
    for side in others:
        header += [f"{side} - {first}", "p"]
    rows = [header]
    for row in comparison.rows:
        cells = [f"{row.metric}{_arrow(row.metric)}", str(row.n)]
        cells += [_mean(row, side) for side in comparison.shown]
        for side in others:
            cells += _difference(row.differences.get(side), bold)
        rows.append(cells)
    return rows


def _mean(row: MetricRow, side: str) -> str:
    """The mean of a side; "" if the unedited model lacks the metric."""
    if side not in row.means:
        return ""
    return _number(row.means[side].mean or 0.0)


def _arrow(metric: str) -> str:
    """An arrow up or down for the better direction; "" if neither is better, or the metric is unknown."""
    listed = find_metric(metric)
    if listed is None:
        return ""
    return {"higher": " ↑", "lower": " ↓"}.get(listed.better, "")


def _difference(change: Difference | None, bold: Callable[[str], str]) -> tuple[str, str]:
    if change is None:
        return "", ""
    text = _number(change.mean, "+")
    p = "<.001" if change.p < 0.001 else f"{change.p:.3f}"
    if change.ci95_low is not None and change.ci95_high is not None:
        text = f"{text} [{_number(change.ci95_low, '+')}, {_number(change.ci95_high, '+')}]"
    return bold(text) if change.is_found else text, p


def _number(value: float, sign: str = "") -> str:
    """Three decimals; five for values closer to 0 than 0.005, and two digits for those closer than 0.00005.

    What rounding leaves of a sum that is 0 is shown as 0.
    """
    if abs(value) < _ROUNDING:
        value = 0.0
    if abs(value) >= 0.005 or value == 0:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.5f}" if abs(value) >= 0.00005 else f"{value:{sign}.1e}"


_WRITERS: Mapping[str, Callable[[Comparison, Path], Path]] = {
    ".md": lambda comparison, path: write_text(path, markdown(comparison)),
    ".tex": lambda comparison, path: write_text(path, latex(comparison)),
    ".csv": lambda comparison, path: write_text(path, csv_of(comparison.table)),
    ".json": lambda comparison, path: write_json(path, comparison.model_dump(mode="json")),
    ".png": draw_comparison,
    ".svg": draw_comparison,
    ".pdf": draw_comparison,
}
