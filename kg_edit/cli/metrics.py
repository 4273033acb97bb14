"""`kg-edit metrics`: what the scores mean."""

from __future__ import annotations

from typing import Annotated

import typer

from kg_edit.cli.console import plain, stdout


def metrics(
    markdown: Annotated[bool, typer.Option("--markdown", help="write the page docs/metrics.md")] = False,
) -> None:
    """List the metrics: formula, source, range.

    Example: `kg-edit metrics`
    """
    from kg_edit.evaluate.metrics.catalogue import CATALOGUE
    from kg_edit.evaluate.metrics_page import metrics_page

    if markdown:
        typer.echo(metrics_page(), nl=False)
        return
    for name, metric in CATALOGUE.items():
        stdout().print(f"[bold]{name}[/bold]  {plain(metric.formula)}\n  {plain(metric.source)} {metric.values}")
