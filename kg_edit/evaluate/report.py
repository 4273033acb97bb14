"""A run's summary as a table for people."""

from __future__ import annotations

from rich.table import Table

from kg_edit.evaluate.bootstrap import EDITING_SCORE
from kg_edit.evaluate.metrics import METRICS
from kg_edit.evaluate.summary import Summary

_METRICS = (*METRICS, EDITING_SCORE)
_TITLES = {
    "base": "before",
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
    rows = [[name, *(_cell(summary, section, name) for section in summary.sections)] for name in _METRICS]
    return [["metric", *(_TITLES[section] for section in summary.sections)], *rows]


def _cell(summary: Summary, section: str, metric: str) -> str:
    estimate = summary.sections[section].get(metric)
    if estimate is None or estimate.mean is None:
        return ""
    count = summary.provenance["counts"][section][metric]
    some = f" of {count}" if count < summary.n else ""
    return f"{estimate.mean:.3f} [{estimate.ci95_low:.3f}, {estimate.ci95_high:.3f}]{some}"


def _caption(summary: Summary) -> str:
    run = summary.provenance
    failed = f", {run['failed']} failed and count as the model before" if run["failed"] else ""
    speed = "" if summary.seconds_per_edit is None else f", {summary.seconds_per_edit:.1f} s an edit"
    return f"{run['method']} on {run['model']['name']}: {summary.n} edits made one at a time{failed}{speed}"
