"""`kg-edit data`: what is wrong with a benchmark file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.jobs.method_plan import open_graph
from kg_edit.jobs.options import Contact, Graph
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.datasets.lint import Finding

_SHOWN = 3  # examples a kind

app = typer.Typer(no_args_is_help=True, help="Look at benchmark files.", rich_markup_mode="markdown")


@app.callback()
def _top() -> None:
    """Makes `check` a command of this group; its help is the group's own."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="the data set's JSON file, or hf:NAME")],
    dataset: Annotated[str | None, typer.Option(help="which benchmark it is; found out if not given")] = None,
    graph: Graph = None,
    every: Annotated[bool, typer.Option("--all", help="list all faults, not three of a kind")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="write all faults as JSON")] = False,
    contact: Contact = None,
) -> None:
    """Report the faults of a benchmark file; exit code 1 if there are any.

    Example: `kg-edit data check MQuAKE-CF-3k.json --dataset mquake --graph wikidata.nt.gz`
    """
    from kg_edit.datasets import find_dataset, guess_dataset
    from kg_edit.datasets.lint import lint

    chosen = find_dataset(dataset) if dataset else guess_dataset(file)
    reading = chosen.read(file)
    findings = lint(reading, labels=open_graph(graph, contact))
    if as_json:
        records = len(reading.records)
        whole = {"dataset": chosen.name, "records": records, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(whole, ensure_ascii=False, indent=2))
    else:
        _show(findings, len(findings) if every else _SHOWN)
        faults = len(findings) or "no"
        stdout().print(f"{plain(str(file))}: {len(reading.records)} records of {chosen.name}, {faults} faults")
    if findings:
        raise typer.Exit(1)


def _show(findings: tuple[Finding, ...], shown: int) -> None:
    from rich.table import Table

    if not findings:
        return
    table = Table()
    for header in ("fault", "record", "what"):
        table.add_column(header, overflow="fold")
    seen: Counter[str] = Counter()
    totals = Counter(finding.kind for finding in findings)
    for finding in findings:
        seen[finding.kind] += 1
        if seen[finding.kind] <= shown:
            table.add_row(finding.kind, plain(finding.id), plain(finding.message))
        elif seen[finding.kind] == totals[finding.kind]:
            table.add_row(finding.kind, "", f"and {totals[finding.kind] - shown} more")
    stdout().print(table)
