"""A sweep as a Markdown table: a cell a row, the unedited model on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kg_edit.evaluate.statistics import Estimate
from kg_edit.sweep.run import Outcome


def sweep_table(outcomes: Sequence[Outcome], metrics: Sequence[str]) -> str:
    """Means with 95 % intervals, seconds an edit, and failed records; a dash where no record has a metric."""
    axes = list(outcomes[0].cell.values)
    header = [*axes, *metrics, "s an edit", "failed"]
    base = outcomes[0].summary.base
    rows = [["unedited", *[""] * (len(axes) - 1), *(_cell(base.get(metric)) for metric in metrics), "", ""]]
    rows += [_row(outcome, metrics) for outcome in outcomes]
    ruler = ["---"] * len(axes) + ["---:"] * (len(header) - len(axes))
    body = "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))
    return f"{body}\n\n{caption(outcomes)}\n"


def caption(outcomes: Sequence[Outcome]) -> str:
    """What the numbers are of."""
    summary = outcomes[0].summary
    run = summary.provenance
    methods = sorted({outcome.summary.provenance["method"] for outcome in outcomes})
    return f"{', '.join(methods)} on {run['model']['name']}, {summary.n} records, edits made {run['schedule']}"


def _row(outcome: Outcome, metrics: Sequence[str]) -> list[str]:
    summary = outcome.summary
    seconds = summary.seconds_per_edit
    return [
        *(_shown(value) for value in outcome.cell.values.values()),
        *(_cell(summary.edited.get(metric)) for metric in metrics),
        "" if seconds is None else f"{seconds:.1f}",
        str(summary.provenance["failed"]),
    ]


def _shown(value: Any) -> str:
    return str(value).replace("|", "\\|")


def _cell(found: Estimate | None) -> str:
    if found is None or found.mean is None:
        return "\N{EN DASH}"
    return f"{found.mean:.3f} [{found.ci95_low:.3f}, {found.ci95_high:.3f}]"
