"""`kg-edit sweep`: a grid of settings, each cell a resumable run, with a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import say
from kg_edit.cli.method_plan import graph_name, load_model, open_graph
from kg_edit.cli.options import Contact, Graph, Out, Overwrite, refuse_unused
from kg_edit.errors import ConfigError
from kg_edit.storage.packaged import HUB, benchmark_hint, packaged_benchmark

if TYPE_CHECKING:
    from kg_edit.evaluation.case import Case
    from kg_edit.evaluation.cli.sweep_grid import SweepSettings
    from kg_edit.evaluation.cli.sweep_run import Outcome
    from kg_edit.evaluation.datasets import FileContent

TABLE = "table.md"
PICTURE = "picture.svg"

File = Annotated[Path | None, typer.Argument(metavar="FILE.toml", help="Sweep file; `--example` prints one.")]


def sweep(
    context: typer.Context,
    file: File = None,
    out: Out = Path("sweep"),
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Benchmark's file; overrides the sweep file.")
    ] = None,
    graph: Graph = None,
    model: Annotated[str | None, typer.Option("--model", help="Model; overrides the sweep file.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use only the first records; overrides the sweep file.")
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a commented sweep file and exit.")] = False,
    cells: Annotated[bool, typer.Option("--cells", help="List the cells of the grid and exit.")] = False,
    overwrite: Overwrite = False,
    contact: Contact = None,
) -> None:
    """Score a grid of methods and settings, such as layers and steps.

    Each cell of the grid is a run that the same command again resumes.

    Examples:

    - `kg-edit sweep --example > sweep.toml`
    - `kg-edit sweep sweep.toml --data dev.json --graph wikidata.nt.gz --out runs/sweep/`
    """
    if example:
        unused = ("file", "out", "data", "graph", "model", "limit", "cells", "overwrite", "contact")
        refuse_unused(context, unused, "with --example, which only prints a sweep file")
    # The paths are checked before anything heavy is imported.
    if file is not None and not file.exists():
        raise ConfigError(f"can't read {file}: there is no such file; kg-edit sweep --example prints an example")
    if data is not None and not (data.exists() or packaged_benchmark(data) or str(data).startswith(HUB)):
        raise ConfigError(f"--data {data}: there is no such file{benchmark_hint(data) or '; check the path'}")
    from kg_edit.evaluation.cli.sweep_grid import cells_of, read_sweep
    from kg_edit.evaluation.cli.sweep_grid import example as text_of_example

    if example:
        typer.echo(text_of_example(), nl=False)
        return
    if cells:
        unread = ("out", "data", "graph", "model", "limit", "overwrite", "contact")
        refuse_unused(context, unread, "with --cells, which only lists the cells of the file")
    if file is None:
        raise ConfigError("no sweep file given; kg-edit sweep --example prints an example")
    settings = _override(read_sweep(file), data=data, graph=graph, model=model, limit=limit)
    if cells:
        for cell in cells_of(settings):
            say(cell.folder)
        return
    if graph and not any(cell.method.needs_graph for cell in cells_of(settings)):
        raise ConfigError("--graph has no effect: no method of the grid reads a graph; leave it out")
    _show(_run(settings, out, contact, overwrite=overwrite), settings, out)


def _override(
    settings: SweepSettings, *, data: Path | None, graph: Sequence[str] | None, model: str | None, limit: int | None
) -> SweepSettings:
    """Return the settings of the file, with the given options on top."""
    records = dict[str, object]()
    if data is not None:
        records["file"] = data
    if limit is not None:
        records["limit"] = limit
    options = dict[str, object]()
    if graph:
        options["graph"] = tuple(graph)
    if model:
        options["model"] = model
    return settings.model_copy(update={"data": settings.data.model_copy(update=records), **options})


def _run(settings: SweepSettings, out: Path, contact: str | None, *, overwrite: bool) -> tuple[Outcome, ...]:
    """Check all, load the model, then score cell after cell."""
    from kg_edit.evaluation.cli.evaluation_graph import graph_for, guard_graph
    from kg_edit.evaluation.cli.sweep_grid import cells_of
    from kg_edit.evaluation.cli.sweep_run import run_sweep
    from kg_edit.evaluation.config import EvalConfig
    from kg_edit.evaluation.settings import DataSource
    from kg_edit.storage.run_folder import check_folder, replace_run

    cells = cells_of(settings)
    config = EvalConfig(schedule=settings.schedule, seed=settings.seed)
    check_folder(out)
    file = settings.data.file
    if file is None:
        raise ConfigError("the sweep file has no data; give --data FILE, or file = ... in its table [data]")
    content = _read(settings, file)
    skipped = tuple(dict.fromkeys(problem.id for problem in content.problems))
    graphs = list(settings.graph)
    if not graphs and any(cell.method.needs_graph for cell in cells):
        graphs = [graph_name(file)]  # the packaged one for the data
    graph = graph_for(open_graph(graphs, contact), content.records)
    for cell in cells:
        cell.method.check_inputs(cell.config, graph, ())
    model = load_model(settings.model, settings.dtype, settings.device)

    def score_cells() -> tuple[Outcome, ...]:
        return run_sweep(
            cells,
            model,
            content.records[: settings.data.limit],
            out=out,
            graph=lambda config: guard_graph(graph, config, content.records),
            pool=content.records,
            data=DataSource.of(settings.data.dataset, file, skipped=skipped),
            config=config,
            overwrite=overwrite,
        )

    return replace_run(out, score_cells, overwrite=overwrite)


def _read(settings: SweepSettings, file: Path) -> FileContent:
    """Read the records; refuse metrics that the user names and the records lack (the default ones may be lacking)."""
    from kg_edit.evaluation.case import Case
    from kg_edit.evaluation.datasets import read_dataset

    limit = settings.data.limit
    way = 'give dataset = "{}" in the table [data] of the sweep file'
    content = read_dataset(settings.data.dataset, file, used=slice(0, limit), way=way)
    if "metrics" in settings.model_fields_set:
        _refuse_missing(settings.metrics, [Case.of(record) for record in content.records[:limit]])
    return content


def _refuse_missing(metrics: Sequence[str], cases: Sequence[Case]) -> None:
    """Refuse a metric that no case can have, which the table would show at the end."""
    from kg_edit.evaluation.metrics.catalogue import CATALOGUE

    def brings(case: Case, part: str) -> bool:
        name = "portability" if part == "questions" else part  # of the edit's own parts
        return bool(case.group(part)) or any(getattr(edit, name, ()) for edit in case.edits)

    def has_all(case: Case, needs: Sequence[str]) -> bool:
        return all(brings(case, part) for part in needs)

    for metric in metrics:
        needs = getattr(CATALOGUE[metric], "needs", ())
        if not any(has_all(case, needs) for case in cases):
            parts = ", ".join(needs)
            raise ConfigError(f"key metrics: no record has what {metric} needs ({parts}); leave it out of metrics")


def _show(outcomes: tuple[Outcome, ...], settings: SweepSettings, out: Path) -> None:
    from kg_edit.evaluation.cli.sweep_run import draw_sweep, sweep_table
    from kg_edit.storage.atomic import write_text

    table = sweep_table(outcomes, settings.metrics)
    write_text(out / TABLE, table)
    draw_sweep(outcomes, settings.metrics, out / PICTURE)
    typer.echo(table)
    say(f"{out}: {TABLE}, {PICTURE}, and one folder per cell")
