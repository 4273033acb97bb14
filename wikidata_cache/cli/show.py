"""`wikidata-cache show`: a neighbourhood or the subgraph of an edit, in words, as a picture and as a page."""

import webbrowser
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wikidata_cache.cache import WikidataCache
from wikidata_cache.cli.options import AsOf, Cache, CacheMode, Contact, Graph, GraphName, Offline, Packs, open_cache
from wikidata_cache.edits import EditRow, is_edit_file, read_edits
from wikidata_cache.errors import BadOptionError, WikidataCacheError
from wikidata_cache.plan import Direction, Root, Statements
from wikidata_cache.subgraphs.exports import edge_hop
from wikidata_cache.subgraphs.sample import Policy
from wikidata_cache.subgraphs.subgraph import Subgraph


def show(
    what: Annotated[str, typer.Argument(metavar="QID | EDITS:ROW", help="Q1345, or a row such as edits.jsonl:3.")],
    graph: Graph = None,
    contact: Contact = None,
    hops: Annotated[
        int | None, typer.Option(min=1, help="Of an item 1 (its statements), of an edit 2 (those of o*).")
    ] = None,
    per_node: Annotated[int, typer.Option(min=0, help="Statements kept of each item.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    policy: Annotated[Policy, typer.Option(help="How statements are sampled.")] = "uniform",
    direction: Annotated[Direction, typer.Option(help="both: expand along incoming statements too.")] = "out",
    statements: Annotated[Statements, typer.Option(help="all: statements of every rank but deprecated.")] = "truthy",
    root: Annotated[
        list[str] | None,
        typer.Option(help="Of an edit: expand target_new (default), subject, target_true; may be repeated."),
    ] = None,
    max_edges: Annotated[int | None, typer.Option(min=1, help="Of an edit: keep the nearest edges only.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write an interactive page too.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page of --html in a browser.")] = False,
    draw: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw it to FILE.svg or FILE.png.")] = None,
    cache: Cache = None,
    offline: Offline = False,
    mode: CacheMode = None,
    pack: Packs = None,
    as_of: AsOf = None,
    graph_name: GraphName = "wikidata",
) -> None:
    """Print what the graph says about an item or around an edit, in words; draw it, or make a page of it.

    Examples: `wikidata-cache show Q1345` · `wikidata-cache show edits.jsonl:3 --html graph.html` ·
    `wikidata-cache show Q65 --hops 2 --per-node 5 --draw la.svg`
    """
    if open_it and html is None:
        raise BadOptionError("--open opens the page of --html; give --html FILE.html too.")
    edit = _edit(what)
    opened = open_cache(
        graph, contact, cache=cache, offline=offline, mode=mode, packs=pack, as_of=as_of, graph_name=graph_name
    )
    if edit is None:
        subgraph = opened.neighbourhood(
            what,
            hops=hops or 1,
            per_node=per_node,
            seed=seed,
            policy=policy,
            direction=direction,
            statements=statements,
        )
        _check_known(opened, subgraph, what)
        title = f"{subgraph.nodes[what]['label']} ({what})"
    else:
        subgraph = opened.subgraph(
            edit,
            hops=hops or 2,
            per_node=per_node,
            seed=seed,
            roots=cast(list[Root], root) or ("target_new",),  # checked by the subgraph's own options
            max_edges=max_edges,
            policy=policy,
            direction=direction,
            statements=statements,
        )
        title = f"{edit.subject}: {edit.target_new} instead of {edit.target_true or 'what is known'}"
    _console().print(_table(subgraph, title))
    if html is not None:
        opened.describe(subgraph)
        subgraph.to_html(html)
    if open_it and html is not None:
        webbrowser.open(html.resolve().as_uri())
    if draw is not None:
        from wikidata_cache.view.draw import draw as draw_graph  # matplotlib takes a second to import

        draw_graph(subgraph, draw)


def _edit(what: str) -> EditRow | None:
    """The edit of a row, where a row is named."""
    if not is_edit_file(what):
        return None
    rows = read_edits(what)
    if len(rows) > 1:
        raise BadOptionError(f"{what} holds {len(rows)} edits; name one of them, such as {what}:1.")
    return rows[0]


def _check_known(opened: WikidataCache, subgraph: Subgraph, entity: str) -> None:
    if not (subgraph.edges or opened.labels([entity]) or opened.facts.out([entity])[entity]):
        raise WikidataCacheError(
            f"{entity} is not in the graph {opened.source.name}: no statement, no label. "
            f"Check the id, or give a graph that holds it (--graph)."
        )


def _console() -> Console:
    # Piped output keeps whole lines instead of folding at 80 columns.
    console = Console(soft_wrap=True)
    return console if console.is_terminal else Console(width=160)


def _table(graph: Subgraph, title: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for column in ("hop", "subject", "property", "object", "ids"):
        table.add_column(column, no_wrap=column == "ids")
    for subject, target, key, data in graph.edges(keys=True, data=True):
        cells = (graph.nodes[subject]["label"], data["label"], graph.nodes[target]["label"])
        hop = str(edge_hop(graph, subject, target))
        table.add_row(hop, *map(escape, cells), f"{subject} {key} {target}")
    return table
