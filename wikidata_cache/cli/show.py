"""`wikidata-cache show`: a neighbourhood or the subgraph of an edit, as a table, a picture and a page.

What the command refuses is refused before any work is done; below the table stands what was left out of it, and why.
"""

from __future__ import annotations

import re
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from wikidata_cache.cli.console import cell, say
from wikidata_cache.cli.options import AsOf, Cache, CacheMode, Contact, Graph, GraphName, Offline, Packs, open_cache
from wikidata_cache.edits import EditRow, is_edit_file, read_edits
from wikidata_cache.errors import BadOptionError, CacheMissError, WikidataCacheError
from wikidata_cache.ids import is_property
from wikidata_cache.row_files import SUFFIXES
from wikidata_cache.subgraphs.options import Direction, Root, Statements, SubgraphOptions
from wikidata_cache.subgraphs.sampling import Policy

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.subgraphs.subgraph import Subgraph

_NO_ROW = re.compile(rf"(?P<file>.+(?:{'|'.join(map(re.escape, SUFFIXES))})):(?P<row>[^/:]*)", re.IGNORECASE)

_REASONS = {  # texts for the reasons in `graph.graph["dropped"]`; several reasons may share one
    "unlabelled_item": "without a label",
    "unlabelled_property": "without a label",
    "meta_property": "with a housekeeping property",
    "internal_item": "about Wikimedia's own pages",
    "not_sampled": "not sampled (--per-node)",
    "over_max_edges": "beyond --max-edges",
    "old_edge": "that state the replaced fact",
    "edit_edge_again": "that the edit itself states",
    "of_the_subject": "about the subject (not a --root)",
    "answer": "that reveal an answer",
}


def show(
    what: Annotated[str, typer.Argument(metavar="QID | EDITS:ROW", help="Q1345, or a row such as edits.jsonl:3.")],
    graph: Graph = None,
    contact: Contact = None,
    hops: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of hops. Default: 1 for an item (its statements), 2 for an edit (those of o*)."
        ),
    ] = None,
    per_node: Annotated[int, typer.Option(min=0, help="Statements to keep per item.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    policy: Annotated[Policy, typer.Option(help="How statements are sampled.")] = "uniform",
    direction: Annotated[Direction, typer.Option(help="both: expand along incoming statements too.")] = "out",
    statements: Annotated[Statements, typer.Option(help="all: statements of every rank except deprecated.")] = "truthy",
    root: Annotated[
        list[str] | None,
        typer.Option(help="For an edit: expand target_new (default), subject or target_true; repeatable."),
    ] = None,
    max_edges: Annotated[
        int | None, typer.Option(min=1, help="For an edit: keep only this many edges, the nearest.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Also write an interactive page.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page of --html in a browser.")] = False,
    draw: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Also draw the graph.")] = None,
    cache: Cache = None,
    offline: Offline = False,
    mode: CacheMode = None,
    pack: Packs = None,
    as_of: AsOf = None,
    graph_name: GraphName = "wikidata",
) -> None:
    """Print the statements about an item or around an edit; optionally draw them or write a page.

    Examples: `wikidata-cache show Q1345` · `wikidata-cache show edits.jsonl:3 --html graph.html` ·
    `wikidata-cache show Q65 --hops 2 --per-node 5 --draw la.svg`
    """
    _check_files(html, draw, open_it=open_it)
    edit = edit_of(what)
    if edit is None:
        check_for_edits_only(what, {"--max-edges": max_edges, "--root": root})
    opened = open_cache(
        graph, contact, cache=cache, offline=offline, mode=mode, packs=pack, as_of=as_of, graph_name=graph_name
    )
    if is_property(what):
        _show_property(opened, what, drawn=bool(html or draw))
        return
    options = SubgraphOptions(
        hops=hops or (1 if edit is None else 2),
        per_node=per_node,
        seed=seed,
        roots=cast(list[Root], root) or ("target_new",),
        max_edges=max_edges,
        policy=policy,
        direction=direction,
        statements=statements,
    )
    subgraph, title = _of_item(opened, what, options) if edit is None else _of_edit(opened, edit, options)
    print_subgraph(subgraph, title)
    _write_views(opened, subgraph, html, draw, open_it=open_it)


def _check_files(html: Path | None, draw: Path | None, *, open_it: bool) -> None:
    """Raise BadOptionError for files that cannot be written, or a page to open that is not written."""
    if open_it and html is None:
        raise BadOptionError("--open opens the page of --html; give --html FILE.html too.")
    check_out(html, "--html", ".htm", ".html")
    check_out(draw, "--draw", ".svg")


def _show_property(opened: WikidataCache, entity: str, *, drawn: bool) -> None:
    if drawn:
        raise BadOptionError(f"{entity} is a property, and only items can be drawn; give an item, such as Q42.")
    say(described_property(opened, entity))


def _of_item(opened: WikidataCache, what: str, options: SubgraphOptions) -> tuple[Subgraph, str]:
    """The neighbourhood of an item, redirects followed, and its title."""
    entity = followed(opened, what)
    subgraph = opened.neighbourhood(entity, options)
    if not subgraph.edges:
        check_known(opened, entity)
    title = f"{subgraph.nodes[entity]['label']} ({entity})"
    if entity != what:
        subgraph.graph["redirects"] = {what: entity}
        title += f"; {what} was merged into it"
    return subgraph, title


def _of_edit(opened: WikidataCache, edit: EditRow, options: SubgraphOptions) -> tuple[Subgraph, str]:
    """The subgraph of an edit, and its title."""
    subgraph = opened.subgraph(edit, options)
    return subgraph, f"{edit.subject}: {edit.target_new} instead of {edit.target_true or 'the current value'}"


def _write_views(
    opened: WikidataCache, subgraph: Subgraph, html: Path | None, draw: Path | None, *, open_it: bool
) -> None:
    """Write the page and the drawing, where they are wanted, and open the page."""
    if html is not None:
        opened.describe(subgraph)
        subgraph.to_html(html)
        if open_it:
            webbrowser.open(html.resolve().as_uri())
    if draw is not None:
        subgraph.to_svg(draw)


def edit_of(what: str) -> EditRow | None:
    """The edit of a row such as "edits.jsonl:3"; None for an id.

    Raises BadOptionError for several rows or no row number, and EditRowError for a row that is no edit.
    """
    if not is_edit_file(what):
        if found := _NO_ROW.fullmatch(what):
            raise BadOptionError(
                f"{what}: found {found['row']!r} after the colon; expected a row number, such as {found['file']}:1."
            )
        return None
    rows = read_edits(what)
    if len(rows) > 1:
        raise BadOptionError(f"{what} has {len(rows)} edits; choose one row, such as {what}:1.")
    return rows[0]


def check_for_edits_only(what: str, given: Mapping[str, object]) -> None:
    """Raise BadOptionError where an option that only edits have was given for an item."""
    for option, value in given.items():
        if value:
            raise BadOptionError(
                f"{option} is for edits, such as edits.jsonl:1; {what} is an id. Leave {option} out; --hops and "
                f"--per-node say how much of an item is shown."
            )


def check_out(path: Path | None, option: str, *suffixes: str) -> None:
    """Raise BadOptionError for a file that surely cannot be written."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise BadOptionError(f"{option} {path}: expected a name ending in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise BadOptionError(
            f"{option} {path} cannot be written: there is no folder {path.parent}. Make it, or give a file elsewhere."
        )
    if path.is_dir():
        raise BadOptionError(f"{option} {path} is a folder; give a file, such as {path / 'graph'}{suffixes[-1]}.")


def followed(opened: WikidataCache, entity: str) -> str:
    """The id itself, or that of the item into which it was merged."""
    if opened.facts.out([entity])[entity]:
        return entity
    try:
        return opened.facts.redirects([entity]).get(entity, entity)
    except CacheMissError:  # offline, and never asked for
        return entity


def check_known(opened: WikidataCache, entity: str) -> None:
    """Raise WikidataCacheError for an id of which the graph knows neither a statement nor a label."""
    if not (opened.facts.out([entity])[entity] or opened.labels([entity])):
        raise WikidataCacheError(
            f"{entity} is not in the graph {opened.source.name}: no statement, no label. "
            f"Check the id, give a graph that contains it (-g URL, or -g wd/ made by `load`), or get it with `fetch`."
        )


def described_property(opened: WikidataCache, entity: str) -> str:
    """A property's label and description, and why there is no table of it.

    Raises WikidataCacheError where the graph does not know it.
    """
    check_known(opened, entity)
    label = opened.labels([entity]).get(entity, entity)
    try:
        description = opened.facts.descriptions([entity]).get(entity, "")
    except CacheMissError:
        description = ""
    said = f"{label} ({entity})" + (f": {description}" if description else "")
    return f"{said}\n{entity} is a property: a subgraph only contains statements about items (Q…)."


def print_subgraph(graph: Subgraph, title: str) -> None:
    """Print the statements as a table, or a line where there are none, and below it what was left out."""
    from rich.console import Group

    body = table(graph, title) if graph.number_of_edges() else f"{cell(title)}: no statement to show."
    lines = [cell(line) for line in [left_out(graph) or nothing_said(graph)] if line]
    _console().print(Group(body, *lines))


def table(graph: Subgraph, title: str) -> Table:
    """A table with one row a statement: hop, labels of subject, property and object, and the three ids."""
    from rich.table import Table

    from wikidata_cache.subgraphs.subgraph import edge_hop

    made = Table(title=cell(title), title_justify="left")
    for column in ("hop", "subject", "property", "object", "ids"):
        made.add_column(column, no_wrap=column == "ids")
    for subject, target, key, data in graph.edges(keys=True, data=True):
        cells = (graph.nodes[subject]["label"], data["label"], graph.nodes[target]["label"])
        hop = str(edge_hop(graph, subject, target))
        made.add_row(hop, *map(cell, cells), f"{subject} {key} {target}")
    return made


def left_out(graph: Subgraph) -> str:
    """How many statements were left out and why, most first, as one line; "" for none."""
    counts: dict[str, int] = {}
    for reason, count in graph.graph.get("dropped", {}).items():
        name = _REASONS.get(reason, reason)
        counts[name] = counts.get(name, 0) + count
    parts = [f"{count} {name}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))]
    return f"left out: {', '.join(parts)}" if parts else ""


def nothing_said(graph: Subgraph) -> str:
    """Why a graph may have no statements although none was left out; "" where it has some."""
    if graph.number_of_edges():
        return ""
    out = graph.graph.get("direction") != "both"
    return "The graph has no statement about this item." + (
        " --direction both also shows statements with it as value." if out else ""
    )


def _console() -> Console:
    from rich.console import Console

    # Piped output keeps whole lines instead of folding at 80 columns.
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(width=160, highlight=False)
