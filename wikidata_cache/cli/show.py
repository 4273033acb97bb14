"""`wikidata-cache show`: a neighbourhood in words and as a picture."""

from pathlib import Path
from typing import Annotated

import networkx as nx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wikidata_cache.cli.options import Contact, Graph, open_cache
from wikidata_cache.errors import WikidataCacheError


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
    cache = open_cache(graph, contact)
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
