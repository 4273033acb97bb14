"""`kg-edit compare` and `kg-edit merge`: what is done with runs of `kg-edit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kg_edit.cli.console import plain, stdout
from kg_edit.cli.evaluation import show

Runs = Annotated[list[Path], typer.Argument(help="folders of runs; the first is what the others are compared with")]


def compare(
    runs: Runs,
    against: Annotated[str | None, typer.Option(help="compare with this run instead, or with: unedited")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="only this metric; repeatable")] = None,
    common: Annotated[bool, typer.Option("--common", help="only the records that all runs have")] = False,
    out: Annotated[list[Path] | None, typer.Option(help=".md, .tex, .json, .png, .svg or .pdf; repeatable")] = None,
    seed: Annotated[int, typer.Option(help="of intervals and permutations")] = 0,
) -> None:
    """Compare runs record by record: differences, intervals, p-values; one run alone with the unedited model.

    Example: `kg-edit compare runs/rome runs/glame --out comparison.md --out comparison.png`
    """
    from kg_edit.evaluate.compare_report import check_ending, rich_comparison, write_comparison
    from kg_edit.evaluate.comparison import compare as compare_runs

    for path in out or ():
        check_ending(path)
    found = compare_runs(runs, against=against, metrics=metric or (), common=common, seed=seed)
    stdout().print(rich_comparison(found))
    for path in out or ():
        stdout().print(plain(str(write_comparison(found, path))), soft_wrap=True)


def merge(
    out: Annotated[Path, typer.Argument(help="folder for the whole run")],
    shards: Annotated[list[Path], typer.Argument(help="folders of all its shards")],
) -> None:
    """Put the shards of a run (`kg-edit evaluate --shard i/n`) together; the same run as from one process.

    Example: `kg-edit merge runs/rome runs/rome-0 runs/rome-1`
    """
    from kg_edit.evaluate.merge import merge as merge_shards

    show(merge_shards(out, shards), out)
