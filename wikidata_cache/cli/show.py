"""`wikidata-cache show`: a neighbourhood or the subgraph of an edit, in words, as a picture and as a page."""

import webbrowser
from pathlib import Path
from typing import Annotated, cast

import typer

from wikidata_cache.cli.options import AsOf, Cache, CacheMode, Contact, Graph, GraphName, Offline, Packs, open_cache
from wikidata_cache.cli.show_checks import (
    check_for_edits_only,
    check_known,
    check_out,
    described_property,
    edit_of,
    followed,
)
from wikidata_cache.cli.show_words import print_subgraph
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import is_property
from wikidata_cache.subgraphs.options import Direction, Root, Statements
from wikidata_cache.subgraphs.sampling import Policy


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
    check_out(html, "--html", ".htm", ".html")
    check_out(draw, "--draw", ".svg", ".png")
    edit = edit_of(what)
    if edit is None:
        check_for_edits_only(what, {"--max-edges": max_edges, "--root": root})
    opened = open_cache(
        graph, contact, cache=cache, offline=offline, mode=mode, packs=pack, as_of=as_of, graph_name=graph_name
    )
    if is_property(what):
        if html or draw:
            raise BadOptionError(
                f"{what} is a property, of which there is no graph to draw; give an item, such as Q42."
            )
        typer.echo(described_property(opened, what))
        return
    if edit is None:
        entity = followed(opened, what)
        subgraph = opened.neighbourhood(
            entity,
            hops=hops or 1,
            per_node=per_node,
            seed=seed,
            policy=policy,
            direction=direction,
            statements=statements,
        )
        if not subgraph.edges:
            check_known(opened, entity)
        title = f"{subgraph.nodes[entity]['label']} ({entity})"
        if entity != what:
            subgraph.graph["redirects"] = {what: entity}
            title += f"; {what} was merged into it"
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
    print_subgraph(subgraph, title)
    if html is not None:
        opened.describe(subgraph)
        subgraph.to_html(html)
    if open_it and html is not None:
        webbrowser.open(html.resolve().as_uri())
    if draw is not None:
        from wikidata_cache.view.static import draw as draw_graph  # matplotlib takes a second to import

        draw_graph(subgraph, draw)
