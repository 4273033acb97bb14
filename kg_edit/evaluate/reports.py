"""A run's summary as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from kg_edit.evaluate.schedule import Schedule
from kg_edit.evaluate.statistics import EDITING_SCORE
from kg_edit.evaluate.summary import Summary

_TITLES = {
    "base": "before",
    "just_edited": "right after its edit",
    "edited": "after",
    "fact_in_prompt": "fact in prompt",
    "fact_and_relation_in_prompt": "fact and relation in prompt",
}


def render(summary: Summary) -> str:
    """A Markdown table, a metric a row, with 95 % intervals; an empty cell is a metric that no record has.

    Where only some records have a metric, their number stands in its cell.
    """
    header, *rows = _cells(summary)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_caption(summary)}\n"


def rich_table(summary: Summary) -> Table:
    """The same table for the terminal."""
    header, *rows = _cells(summary)
    table = Table(caption=_caption(summary))
    for place, title in enumerate(header):
        table.add_column(title, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _cells(summary: Summary) -> list[list[str]]:
    rows = [[name, *(_cell(summary, section, name) for section in summary.sections)] for name in _names(summary)]
    return [["metric", *(_TITLES[section] for section in summary.sections)], *rows]


def _names(summary: Summary) -> list[str]:
    """All metrics that a section has, the editing score last."""
    names = dict.fromkeys(name for section in summary.sections.values() for name in section)
    return sorted(names, key=EDITING_SCORE.__eq__)


def _cell(summary: Summary, section: str, metric: str) -> str:
    estimate = summary.sections[section].get(metric)
    if estimate is None or estimate.mean is None:
        return ""
    count = summary.provenance["counts"][section][metric]
    some = f" of {count}" if count < summary.n else ""
    return f"{estimate.mean:.3f} [{estimate.ci95_low:.3f}, {estimate.ci95_high:.3f}]{some}"


def _caption(summary: Summary) -> str:
    run = summary.provenance
    like = "the model before" if run.get("schedule", "single") == "single" else "the model without their edit"
    failed = f", {run['failed']} failed and count as {like}" if run["failed"] else ""
    speed = "" if summary.seconds_per_edit is None else f", {summary.seconds_per_edit:.1f} s a record"
    return (
        f"{run['method']} on {run['model']['name']}: the edits of {summary.n} records made {_how(run)}{failed}{speed}"
    )


def _how(run: Mapping[str, Any]) -> str:
    schedule = Schedule.parse(run.get("schedule", "single"))
    if schedule.sequence == 1:
        return "one at a time"
    batches = "" if schedule.batch == 1 else f"in batches of {schedule.batch}"
    onto = f"onto the earlier ones, {schedule.sequence} till the model is reset" if schedule.has_steps else ""
    return ", ".join(filter(None, [batches, onto]))
