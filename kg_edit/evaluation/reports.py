"""Reports for people: the tables of a run's summary, for the terminal or in Markdown.

The functions at the end word numbers and differences, also those of a comparison of runs
(`kg_edit.evaluation.comparison_report`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kg_common.terminal import number_of
from kg_edit.evaluation.general_tasks import PREFIX
from kg_edit.evaluation.schedule import Schedule
from kg_edit.evaluation.settings import method_in_words
from kg_edit.evaluation.statistics import EDITING_SCORE, Difference, Estimate
from kg_edit.evaluation.summary import Summary
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
    table = _tabulate_metrics(summary)
    text = f"{as_markdown(table.header, table.rows)}\n\n{_describe_run(summary)}\n"
    general = _tabulate_tasks(summary)
    if general.rows:
        text += f"\n{as_markdown(general.header, general.rows)}\n\n{_describe_general(summary)}\n"
    return text


class Cells(NamedTuple):
    """The cells of a table."""

    header: list[str]
    rows: list[list[str]]


def as_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the name of a run or of a user's group of probes may have a | in it."""
    escaped_rows = [_escape(row) for row in rows]
    return markdown_table(_escape(header), escaped_rows, numbers_from=1)


def _escape(row: Iterable[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]


def rich_table(summary: Summary) -> Table:
    """Return the table of the metrics for the terminal."""
    table = _tabulate_metrics(summary)
    return terminal_table(table.header, table.rows, numbers_from=1, caption=plain(_describe_run(summary)))


def rich_general(summary: Summary) -> Table | None:
    """Return the table of the tasks for the terminal; None if no tasks were asked."""
    table = _tabulate_tasks(summary)
    if not table.rows:
        return None
    return terminal_table(table.header, table.rows, numbers_from=1, caption=_describe_general(summary))


def _describe_general(summary: Summary) -> str:
    schedule = Schedule.parse(summary.provenance.get("schedule", "single"))
    edited = "mean over the records, each edited alone"
    if schedule.sequence > 1:
        edited = schedule.in_words(summary.n)
    return f"general tasks, the unedited and the edited model ({edited}); n documents, 95 % intervals"


def _tabulate_metrics(summary: Summary) -> Cells:
    """Return a row for each metric that some section has, with a column for each section."""
    rows = list[list[str]]()
    for name in _find_metrics(summary):
        row = [name]
        for section, estimates in summary.sections.items():
            count = summary.provenance["counts"][section].get(name, 0)
            text = interval(estimates.get(name))
            if text and count < summary.n:
                text = f"{text} (n = {count})"
            row.append(text)
        rows.append(row)
    titles = [_TITLES[section] for section in summary.sections]
    return Cells(header=["metric", *titles], rows=rows)


def _find_metrics(summary: Summary) -> list[str]:
    """Return the names of the metrics that some section has, each once; the editing score is the last."""
    names = list[str]()
    for estimates in summary.sections.values():
        for name, estimate in estimates.items():
            if estimate.mean is not None and name not in names:
                names.append(name)
    if EDITING_SCORE in names:
        names.remove(EDITING_SCORE)
        names.append(EDITING_SCORE)
    return names


def _tabulate_tasks(summary: Summary) -> Cells:
    """Return a row for each metric of a general task."""
    rows = list[list[str]]()
    for name, result in (summary.general or {}).items():
        numbers = []
        if result.n:
            numbers.append(str(result.n))
        if result.failed:
            numbers.append(f"{result.failed} broken")
        change = difference_cells(result.difference)
        before = interval(result.before)
        after = interval(result.after)
        rows.append([name.removeprefix(PREFIX), before, after, *change, ", ".join(numbers)])
    return Cells(header=["task", "unedited", "edited", "difference", "p", "n"], rows=rows)


def interval(estimate: Estimate | None) -> str:
    """Return a mean with its interval: the mean alone if it has none, "" without a mean."""
    if estimate is None or estimate.mean is None:
        return ""
    if estimate.ci95_low is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} [{estimate.ci95_low:.3f}, {estimate.ci95_high:.3f}]"


def _describe_run(summary: Summary) -> str:
    """Return in words what was edited, on which model and how, what failed, and what it took."""
    run = summary.provenance
    schedule = Schedule.parse(run.get("schedule", "single"))
    parts = [
        f"{method_in_words(run)} on {run['model']['name']}: "
        f"the edits of {number_of(summary.n, 'record')} made {_describe_schedule(schedule)}"
    ]
    chat = run.get("chat")  # None: each edit is asked as it is made
    if chat is True:
        parts.append("asked in chat form")
    elif chat is False:
        parts.append("asked in plain text")
    unscored = run.get("unscored", 0)
    failed = run["failed"] - unscored
    if failed:
        like = "the model without their edit"
        if schedule.sequence == 1:
            like = "the model before the edit"
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


def _describe_schedule(schedule: Schedule) -> str:
    """Return how the edits are made: "one at a time", or in batches, or on top of each other."""
    if schedule.sequence == 1:
        return "one at a time"
    words = []
    if schedule.batch > 1:
        words.append(f"in batches of {schedule.batch}")
    if schedule.has_steps:
        words.append(f"on top of earlier ones, the model is reset after {schedule.sequence}")
    return ", ".join(words)


def difference_cells(change: Difference | None, mark: Callable[[str], str] | None = None) -> tuple[str, str]:
    """Return a difference with its interval, and p; "" without one. ``mark`` is applied to a significant difference."""
    if change is None:
        return "", ""
    text = format_number(change.mean, "+")
    if change.ci95_low is not None and change.ci95_high is not None:
        text = f"{text} [{format_number(change.ci95_low, '+')}, {format_number(change.ci95_high, '+')}]"
    if change.is_found and mark is not None:
        text = mark(text)
    if change.p < 0.001:
        return text, "<.001"
    return text, f"{change.p:.3f}"


def format_number(value: float, sign: str = "") -> str:
    """Return three decimals; five for values closer to 0 than 0.005, and two digits for those closer than 0.00005.

    What rounding leaves of a sum that is 0 is shown as 0.
    """
    if abs(value) < _ROUNDING:
        value = 0.0
    if abs(value) >= 0.005 or value == 0:
        return f"{value:{sign}.3f}"
    if abs(value) >= 0.00005:
        return f"{value:{sign}.5f}"
    return f"{value:{sign}.1e}"
