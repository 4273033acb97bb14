"""Reports for people: the tables of a run's summary, for the terminal or in Markdown.

The functions at the end word numbers and differences, also those of a comparison of runs
(`kg_edit.evaluation.comparison_report`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
    text = f"{as_markdown(_cells(summary))}\n\n{_caption(summary)}\n"
    general = _general_cells(summary)
    if len(general) > 1:  # more than the header
        text += f"\n{as_markdown(general)}\n\n{_general_caption(summary)}\n"
    return text


def as_markdown(cells: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of the cells; the name of a run or of a user's group of probes may have a | in it."""
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
    if not rows:
        return None
    return terminal_table(header, rows, numbers_from=1, caption=_general_caption(summary))


def _general_caption(summary: Summary) -> str:
    schedule = Schedule.parse(summary.provenance.get("schedule", "single"))
    edited = "mean over the records, each edited alone"
    if schedule.sequence > 1:
        edited = schedule.in_words(summary.n)
    return f"general tasks, the unedited and the edited model ({edited}); n documents, 95 % intervals"


def _cells(summary: Summary) -> list[list[str]]:
    """One row for each metric that some section has, under a header; the editing score is the last."""
    names = dict[str, None]()  # in order, each once
    for estimates in summary.sections.values():
        names |= dict.fromkeys(name for name, value in estimates.items() if value.mean is not None)
    if EDITING_SCORE in names:
        del names[EDITING_SCORE]
        names[EDITING_SCORE] = None
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
    titles = [_TITLES[section] for section in summary.sections]
    return [["metric", *titles], *rows]


def _general_cells(summary: Summary) -> list[list[str]]:
    """One row for each metric of a task: unedited, edited, difference, p, number of documents."""
    rows = []
    for name, result in (summary.general or {}).items():
        numbers = []
        if result.n:
            numbers.append(str(result.n))
        if result.failed:
            numbers.append(f"{result.failed} broken")
        change = difference_cells(result.difference, str)
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
    """What was edited, on which model and how, what failed, and what it took."""
    run = summary.provenance
    schedule = Schedule.parse(run.get("schedule", "single"))
    parts = [
        f"{method_in_words(run)} on {run['model']['name']}: "
        f"the edits of {number_of(summary.n, 'record')} made {_schedule_in_words(schedule)}"
    ]
    chat = run.get("chat")  # None: each edit is asked as it is made
    if chat is not None:
        form = "chat form" if chat else "plain text"
        parts.append(f"asked in {form}")
    unscored = run.get("unscored", 0)
    failed = run["failed"] - unscored
    if failed:
        like = "the model before the edit" if schedule.sequence == 1 else "the model without their edit"
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


def difference_cells(change: Difference | None, mark: Callable[[str], str]) -> tuple[str, str]:
    """Return a difference with its interval, and p; "" without one. ``mark`` is applied to a significant difference."""
    if change is None:
        return "", ""
    text = format_number(change.mean, "+")
    if change.ci95_low is not None and change.ci95_high is not None:
        text = f"{text} [{format_number(change.ci95_low, '+')}, {format_number(change.ci95_high, '+')}]"
    if change.is_found:
        text = mark(text)
    p = "<.001" if change.p < 0.001 else f"{change.p:.3f}"
    return text, p


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
