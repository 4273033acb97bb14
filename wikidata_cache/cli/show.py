"""`wikidata-cache show`: a neighbourhood or the subgraph of an edit, as a table, a drawing and a page.

Bad arguments are refused before any work is done. Below the table is a line on the statements that were left out.
"""

from __future__ import annotations

import re
import webbrowser
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from kg_common.atomic import check_out
from kg_common.ids import is_property
from kg_common.rows import SUFFIXES
from kg_common.terminal import plain
from wikidata_cache.cli import options as opt
from wikidata_cache.cli.console import echo, table_console
from wikidata_cache.edits import EditRow, is_edit_file, read_edits
from wikidata_cache.errors import BadOptionError, WikidataCacheError
from wikidata_cache.sources.queries import HUB
from wikidata_cache.subgraphs.facts import look_up_or_skip
from wikidata_cache.subgraphs.options import Root, SubgraphOptions

if TYPE_CHECKING:
    from rich.table import Table

    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.subgraphs.subgraph import Subgraph

# A file of edits with something else than a row number after the colon, such as "edits.jsonl:x" or "edits.jsonl:".
_NO_ROW = re.compile(rf"(?P<file>.+(?:{'|'.join(map(re.escape, SUFFIXES))})):(?P<row>[^/:]*)", re.IGNORECASE)

_REASONS = {  # texts for the reasons in `Subgraph.graph["dropped"]`; several reasons may share one
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
    "no_rule": "from which nothing follows (--rules)",
}


def show(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="QID | EDITS:ROW", help="Item, or row of a file of edits.")],
    graph: opt.Graph = None,
    contact: opt.Contact = None,
    hops: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", show_default="1 for an item, 2 for an edit", help="Distance up to which to expand."
        ),
    ] = None,
    per_node: opt.PerNode = 20,
    seed: opt.Seed = 0,
    policy: opt.SamplingPolicy = "uniform",
    direction: opt.ExpandDirection = "out",
    statements: opt.StatementRanks = "truthy",
    root: opt.Roots = None,
    rules: opt.RuleFile = None,
    values: opt.Values = False,
    language: opt.Language = None,
    max_edges: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show only the nearest edges of an edit.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write an interactive page.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page of `--html` in a browser.")] = False,
    draw: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the graph.")] = None,
    cache: opt.Cache = None,
    offline: opt.Offline = False,
    mode: opt.CacheMode = None,
    pack: opt.Packs = None,
    as_of: opt.AsOf = None,
    graph_name: opt.GraphName = "wikidata",
) -> None:
    """Print the statements about an item or around an edit.

    An item that was merged into another one is replaced by it. Statements that were left out are counted by reason.

    Examples:

    - `wikidata-cache show Q1345`
    - `wikidata-cache show edits.jsonl:3 --html graph.html`
    - `wikidata-cache show Q84 --language ko`
    - `wikidata-cache show Q65 --hops 2 --per-node 5 --draw la.svg`
    """
    _check_files(html, draw, open_it=open_it)
    edit = _read_edit(what)
    if edit is None:
        _refuse_options_of_edits(what, {"--max-edges": max_edges, "--root": root, "--rules": rules})
    opened = opt.open_cache(
        graph,
        context=context,
        offline=offline,
        language=language,
        contact=contact,
        cache=cache,
        mode=mode,
        packs=pack or (),
        as_of=as_of,
        graph_name=graph_name,
    )
    if is_property(what):
        if html or draw:
            raise BadOptionError(f"{what} is a property, and only items can be drawn; give an item, such as Q42.")
        echo(_describe_property(opened, what))
        return
    if hops is None and edit is None:
        hops = 1
    elif hops is None:
        hops = 2
    options = SubgraphOptions(
        hops=hops,
        per_node=per_node,
        seed=seed,
        roots=cast(list[Root], root) or ("target_new",),
        max_edges=max_edges,
        policy=policy,
        direction=direction,
        statements=statements,
        rules=opt.read_rule_file(rules),
        values=values,
    )
    if edit is not None:
        subgraph = opened.subgraph(edit, options)
        replaced = edit.target_true or "the current value"
        title = f"{edit.subject}: {edit.target_new} instead of {replaced}"
    else:
        subgraph, title = _build_item(opened, what, options)
    _print_subgraph(subgraph, title)
    if rules is not None and not subgraph.graph["consequences"]:
        echo(f"No rule of {rules} adds a fact to this edit.")
    if draw is not None:
        subgraph.to_svg(draw)
    if html is not None:
        _write_page(opened, subgraph, html, open_it=open_it)


def _check_files(html: Path | None, draw: Path | None, *, open_it: bool) -> None:
    """Refuse names of files that can't be written, and --open without a page."""
    if open_it and html is None:
        raise BadOptionError("--open opens the page of --html; give --html FILE.html too.")
    if html is not None:
        check_out(html, ".htm", ".html", option="--html")
    if draw is not None:
        check_out(draw, ".svg", option="--draw")


def _refuse_options_of_edits(what: str, options: Mapping[str, object]) -> None:
    """Refuse the options that have a value, since they are for edits, and `what` is an id."""
    for option, value in options.items():
        if value:
            raise BadOptionError(
                f"{option} is for edits, such as edits.jsonl:1; {what} is an id. Leave {option} out; --hops and "
                f"--per-node limit the statements of an item."
            )


def _read_edit(what: str) -> EditRow | None:
    """Return the edit of a row such as "edits.jsonl:3"; None for an id.

    Raises BadOptionError for several rows or no row number, and EditRowError for a row that is not an edit.
    """
    if not is_edit_file(what):
        match = _NO_ROW.fullmatch(what)
        if match is not None:
            raise BadOptionError(
                f"{what}: found {match['row']!r} after the colon; expected a row number, such as {match['file']}:1."
            )
        return None
    rows = read_edits(what)
    if len(rows) > 1:
        raise BadOptionError(f"{what} has {len(rows)} edits; choose one row, such as {what}:1.")
    return rows[0]


def _build_item(opened: WikidataCache, what: str, options: SubgraphOptions) -> tuple[Subgraph, str]:
    """Return the neighbourhood of an item, or of the item into which it was merged, and its title."""
    entity = what
    if not opened.facts.out([what])[what]:  # it may have been merged; a text that is no id is refused here
        entity = look_up_or_skip(opened.facts.redirects, [what]).get(what, what)
    subgraph = opened.neighbourhood(entity, options)
    if not subgraph.edges:
        _check_known(opened, entity)
    title = f"{subgraph.nodes[entity]['label']} ({entity})"
    if entity != what:
        subgraph.graph["redirects"] = {what: entity}
        title += f"; {what} was merged into it"
    return subgraph, title


def _check_known(opened: WikidataCache, entity: str) -> None:
    """Raise WikidataCacheError for an id of which the graph has neither a statement nor a label."""
    if opened.facts.out([entity])[entity] or opened.labels([entity]):
        return
    raise WikidataCacheError(
        f"{entity} is not in the graph {opened.source.name}: no statement, no label. "
        f"Check the id, give a graph that contains it (-g URL, or -g wd/ made by `load`), or get it with `fetch`."
    )


def _write_page(opened: WikidataCache, subgraph: Subgraph, html: Path, *, open_it: bool) -> None:
    """Write the interactive page, with the descriptions of items; open it in a browser if `open_it`."""
    opened.describe(subgraph)  # adds them to the nodes
    subgraph.to_html(html)
    if open_it:
        webbrowser.open(html.resolve().as_uri())


def _describe_property(opened: WikidataCache, entity: str) -> str:
    """Return a property's label and description, and why there is no table of it."""
    _check_known(opened, entity)
    label = opened.labels([entity]).get(entity, entity)
    description = look_up_or_skip(opened.facts.descriptions, [entity]).get(entity)
    title = f"{label} ({entity})"
    if description:
        title += f": {description}"
    return f"{title}\n{entity} is a property: a subgraph only contains statements about items (Q…)."


def _print_subgraph(subgraph: Subgraph, title: str) -> None:
    """Print the statements as a table, and below it what was left out."""
    console = table_console()
    if subgraph.number_of_edges():
        console.print(_build_table(subgraph, title))
        # Only the subgraph of an edit with --rules has consequences.
        for consequence in subgraph.graph.get("consequences", ()):
            fact = plain(", ".join(consequence["labels"]))
            console.print(f"follows: {fact}, by {consequence['rule']} ({consequence['confidence']:.2f})")
    else:
        console.print(f"{plain(title)}: no statement to show.")
    for line in _describe_left_out(subgraph):
        console.print(plain(line))


def _describe_left_out(subgraph: Subgraph) -> list[str]:
    """Return the lines below the table: the statements that were left out, by reason, and the hubs."""
    lines = []
    dropped = Counter[str]()
    for reason, count in subgraph.graph["dropped"].items():
        dropped[_REASONS.get(reason, reason)] += count
    hubs = subgraph.graph["hubs"]
    if dropped:
        ranked = sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))
        counts = [f"{count} {reason}" for reason, count in ranked]
        lines.append(f"left out: {', '.join(counts)}")
    if hubs:
        lines.append(f"left out: the incoming statements of {', '.join(hubs)}, more than {HUB} each")
    if not dropped and not hubs and not subgraph.number_of_edges():
        words = "The graph has no statement about this item."
        if subgraph.graph["direction"] != "both":
            words += " --direction both also shows statements with it as value."
        lines.append(words)
    return lines


def _build_table(subgraph: Subgraph, title: str) -> Table:
    """Return a table with a row for each statement: its distance from the root, its labels and its ids."""
    from rich.table import Table

    from wikidata_cache.subgraphs.subgraph import edge_hop

    table = Table(title=plain(title), title_justify="left")
    for column in ("hop", "subject", "property", "object", "ids"):
        table.add_column(column, overflow="fold")
    for subject, target, key, data in subgraph.edges(keys=True, data=True):
        labels = (subgraph.nodes[subject]["label"], data["label"] or key, subgraph.nodes[target]["label"])
        table.add_row(str(edge_hop(subgraph, subject, target)), *map(plain, labels), f"{subject} {key} {target}")
    return table
