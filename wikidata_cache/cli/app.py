"""`wikidata-cache`: look at a graph from the command line. Thin; the work is in the library."""

import logging
from pathlib import Path
from typing import Annotated

import networkx as nx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wikidata_cache.cache import WikidataCache
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.extract import PER_NODE, build_extract, check_out, packaged_extract, read_seeds
from wikidata_cache.release import release

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")

Graph = Annotated[
    str | None,
    typer.Option(
        "--graph",
        "-g",
        envvar="KG_GRAPH",
        help="FILE.nt.gz, .nt, .tsv, .tsv.gz, a folder, oxigraph:FOLDER or a SPARQL URL; "
        "by default the small extract that ships with the package.",
    ),
]
Contact = Annotated[
    str | None,
    typer.Option(envvar="KG_EDIT_CONTACT", help="Your e-mail address or URL; Wikimedia endpoints require it."),
]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids such as Q1345 or P19.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wikidata-cache {release()}")
        raise typer.Exit


@app.callback(help=__doc__)
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def show(
    entity: Annotated[str, typer.Argument(metavar="QID", help="An item id such as Q1345.")],
    graph: Graph = None,
    contact: Contact = None,
    hops: Annotated[int, typer.Option(min=1, help="Statements of the item are hop 1.")] = 1,
    per_node: Annotated[int, typer.Option(min=0, help="Statements kept of each item.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    draw: Annotated[Path | None, typer.Option(help="Also draw it to FILE.svg or FILE.png.")] = None,
) -> None:
    """Print what the graph says about an item, in words.

    Examples: `wikidata-cache show Q1345` · `wikidata-cache show Q65 --hops 2 --per-node 5 --draw la.svg`
    """
    cache = _open(graph, contact)
    subgraph = cache.neighbourhood(entity, hops=hops, per_node=per_node, seed=seed)
    if not (subgraph.edges or cache.labels([entity]) or cache.facts.out([entity])[entity]):
        raise WikidataCacheError(
            f"{entity} is not in the graph {cache.source.name}: no statement, no label. "
            f"Check the id, or give a graph that holds it (--graph)."
        )
    _console().print(_table(subgraph, f"{subgraph.nodes[entity]['label']} ({entity})"))
    if draw is not None:
        from wikidata_cache.view.draw import draw as draw_graph  # matplotlib takes a second to import

        draw_graph(subgraph, draw)


@app.command()
def labels(ids: Ids, graph: Graph = None, contact: Contact = None) -> None:
    """Print the English labels of items and properties; an id without one gets an empty cell.

    Examples: `wikidata-cache labels Q1345 P19` · `wikidata-cache labels Q42 -g graph.nt.gz`
    """
    found = _open(graph, contact).labels(ids)
    for entity in ids:
        typer.echo(f"{entity}\t{found.get(entity, '')}")


@app.command()
def find(
    label: Annotated[str, typer.Argument(help="A label, exactly as it is written.")],
    graph: Graph = None,
    contact: Contact = None,
) -> None:
    """Print the ids of everything with exactly this label; exit code 1 if there is nothing.

    Examples: `wikidata-cache find Philadelphia` · `wikidata-cache find "place of birth"`
    """
    found = _open(graph, contact).find(label)
    for entity in found:
        typer.echo(entity)
    if not found:
        raise typer.Exit(1)


@app.command()
def extract(
    seeds: Annotated[Path, typer.Argument(metavar="SEEDS.tsv", help="Header row, then an id in column one.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.nt.gz", help="The file to write.")],
    graph: Graph = None,
    contact: Contact = None,
    per_node: Annotated[
        list[int] | None,
        typer.Option(help=f"Statements kept of each item, once for each hop. Default: {PER_NODE}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Cut the neighbourhoods of some seeds out of a big graph, with all labels.

    Example: `wikidata-cache extract seeds.tsv small.nt.gz -g wikidata.nt.gz --per-node 80 --per-node 20`
    """
    check_out(out)
    try:
        wanted = read_seeds(seeds)
    except (OSError, UnicodeDecodeError) as error:
        raise WikidataCacheError(f"{seeds} cannot be read ({error}); expected a TSV file of ids.") from error
    source = _open(graph, contact).source
    report = build_extract(source, wanted, out, per_node=per_node or PER_NODE, seed=seed)
    typer.echo(
        f"{out}: {report.statements} statements, {report.labels} labels, {report.bytes} bytes, sha256 {report.sha256}"
    )


def main() -> None:
    """The console entry point: errors of this package and of files end with one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app()
    except (WikidataCacheError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None


def _open(graph: str | None, contact: str | None) -> WikidataCache:
    return WikidataCache(graph or packaged_extract(), contact=contact)


def _console() -> Console:
    # Piped output keeps whole lines instead of folding at 80 columns.
    console = Console(soft_wrap=True)
    return console if console.is_terminal else Console(width=160)


def _table(graph: nx.MultiDiGraph, title: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for column in ("hop", "subject", "property", "object", "ids"):
        table.add_column(column, no_wrap=column == "ids")
    for subject, target, key, data in graph.edges(keys=True, data=True):
        cells = (graph.nodes[subject]["label"], data["label"], graph.nodes[target]["label"])
        hop = graph.nodes[subject]["hop"] + 1
        table.add_row(str(hop), *map(escape, cells), f"{subject} {key} {target}")
    return table
