"""`kg-edit export-results`: the results of a run in a format that other projects read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kg_edit.cli.console import say
from kg_edit.storage.run_folder import read_settings


def export_results(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of `kg-edit evaluate`.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the files.")],
    organization: Annotated[str, typer.Option(metavar="NAME", help="Who provides the results.")],
    url: Annotated[str | None, typer.Option(metavar="URL", help="Web page of the organization.")] = None,
    format: Annotated[
        Literal["every-eval-ever"], typer.Option(help="The format: that of evalevalai.com, version 0.3.0.")
    ] = "every-eval-ever",
) -> None:
    """Write the results of a run in the format of Every Eval Ever, one file for each model.

    The files have each metric's mean, interval and number of records, and what was run.

    Examples:

    - `kg-edit export-results runs/rome --format every-eval-ever --organization "My lab" --out every-eval-ever/`
    """
    read_settings(run)  # a wrong path is an error before torch is imported
    from kg_edit.evaluation.every_eval_ever import export_results as write

    for file in write(run, out, organization=organization, url=url):
        say(str(file))
