"""`kg-edit metrics`: what is measured."""

from __future__ import annotations

from typing import Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.text.display import plain


def metrics(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page `docs/metrics.md`.")] = False,
) -> None:
    """List the metrics with formula, source and range.

    Examples:

    - `kg-edit metrics`
    """
    from kg_edit.evaluation.metrics.catalogue import CATALOGUE, metrics_page

    if markdown:
        typer.echo(metrics_page(), nl=False)
        return
    for name, metric in CATALOGUE.items():
        stdout().print(f"[bold]{name}[/bold]  {plain(metric.formula)}\n  {plain(metric.source)} {metric.values}")
