"""`wikidata-cache fetch`: the subgraphs of a file of edits into the cache, in as few requests as possible.

Offline, what the cache lacks is an error with the command that fetches it, which is the one typed, without --offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from wikidata_cache.answers.modes import WIKIDATA, Mode
from wikidata_cache.cli.console import say
from wikidata_cache.cli.options import AsOf, Cache, CacheMode, Contact, GraphName, Offline, Packs, mode_from_options
from wikidata_cache.edits import file_of, read_edits
from wikidata_cache.errors import BadOptionError, CacheMissError
from wikidata_cache.ids import check_ids, is_item
from wikidata_cache.sources.source import Kind
from wikidata_cache.subgraphs.options import Direction, Root, Statements, SubgraphOptions
from wikidata_cache.subgraphs.sampling import Policy

if TYPE_CHECKING:
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.fetch import Fetched
    from wikidata_cache.sources.source import Source


# Options that keep a command offline, and those that `FetchHint` adds itself.
_LEFT_OUT = ("edits", "offline", "mode", "as_of", "endpoint", "cache", "contact", "graph_name")
# Options that have no effect with --kind.
_SAMPLING = ("hops", "per_node", "seed", "policy", "direction", "statements", "root")
_OF_EDITS = (*_SAMPLING, "out", "descriptions", "keep_going")
_OF_A_CACHE = {"cache": "--cache", "offline": "--offline", "mode": "--mode", "pack": "--pack", "as_of": "--as-of"}


def fetch(
    context: typer.Context,
    edits: Annotated[
        list[str], typer.Argument(metavar="EDITS", help="File of edits: .jsonl, .json, .csv or .tsv; with --kind, ids.")
    ],
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help=f"SPARQL endpoint; repeat the option to add fallbacks. Default: {WIKIDATA}"),
    ] = None,
    contact: Contact = None,
    hops: Annotated[
        int, typer.Option(min=1, help="Number of hops: the edit itself is hop 1, the statements of o* are hop 2.")
    ] = 2,
    per_node: Annotated[int, typer.Option(min=0, help="Statements to keep per item.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    policy: Annotated[Policy, typer.Option(help="How statements are sampled.")] = "uniform",
    direction: Annotated[Direction, typer.Option(help="both: expand along incoming statements too.")] = "out",
    statements: Annotated[Statements, typer.Option(help="all: statements of every rank except deprecated.")] = "truthy",
    root: Annotated[
        list[str] | None, typer.Option(help="Expand target_new (default), subject or target_true; repeatable.")
    ] = None,
    cache: Cache = None,
    offline: Offline = False,
    mode: CacheMode = None,
    pack: Packs = None,
    as_of: AsOf = None,
    graph_name: GraphName = "wikidata",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl[.gz]", help="Also write the subgraphs, one per line.")
    ] = None,
    descriptions: Annotated[
        bool, typer.Option("--descriptions", help="Also fetch the items' descriptions, for `show --html` offline.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Skip edits that cannot be resolved in the graph.")
    ] = False,
    kind: Annotated[
        Kind | None, typer.Option(help="Fetch facts of this kind for each id: " + ", ".join(get_args(Kind)) + ".")
    ] = None,
) -> None:
    """Fetch the subgraphs of all edits of a file into the cache, in as few requests as possible.

    Answers in the cache are not fetched again, so the same command resumes a stopped run.

    Examples: `wikidata-cache fetch edits.jsonl --contact me@uni.edu` ·
    `wikidata-cache fetch edits.jsonl --offline --out subgraphs.jsonl.gz` ·
    `wikidata-cache fetch --kind label Q1345 P19 --contact me@uni.edu`
    """
    from wikidata_cache.fetch import fetch_edits, write_subgraphs

    _check_options(context, kind)
    _check_out(edits, out)
    opened = _open(endpoint, contact, cache, mode_from_options(mode, offline=offline), pack, as_of, graph_name)
    check_cached(context, opened.source)
    with add_fetch_hint(context, opened.source):
        if kind is not None:
            _fetch_ids(opened, kind, edits)
            return
        file = _edit_file(edits)
        fetched = fetch_edits(
            opened,
            read_edits(file),
            path=Path(file),
            options=SubgraphOptions(
                hops=hops,
                per_node=per_node,
                seed=seed,
                roots=cast(list[Root], root) or ("target_new",),
                policy=policy,
                direction=direction,
                statements=statements,
            ),
            keep_going=keep_going,
        )
        if descriptions:
            opened.facts.descriptions({node for graph in fetched.graphs for node in graph if is_item(node)})
        if out is not None:
            write_subgraphs(out, fetched)
    report(fetched)


def _open(
    endpoints: list[str] | None,
    contact: str | None,
    cache: Path | None,
    mode: Mode | None,
    packs: list[Path] | None,
    as_of: str | None,
    graph_name: str,
) -> WikidataCache:
    """The cache over the endpoints, by default Wikidata's; offline, and to replay a time, over none."""
    from wikidata_cache.cache import WikidataCache

    is_online = mode != "offline" and as_of is None
    return WikidataCache(
        endpoints or ([WIKIDATA] if is_online else None),
        contact=contact,
        cache=cache,
        mode=mode,
        packs=tuple(packs or ()),
        as_of=as_of,
        graph_name=graph_name,
    )


def _check_options(context: typer.Context, kind: Kind | None) -> None:
    """Raise BadOptionError for options that have no effect on ids."""
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    given = [names[name] for name in _OF_EDITS if _is_typed(context, name)]
    if kind is not None and given:
        raise BadOptionError(
            f"--kind fetches facts about ids, and {', '.join(given)} is for files of edits; leave one of them out."
        )


def _check_out(edits: list[str], out: Path | None) -> None:
    """Raise BadOptionError for a file that surely cannot be written, or that holds something else."""
    if out is None:
        return
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise BadOptionError(f"--out {out}: expected a name ending in .jsonl or .jsonl.gz.")
    if not out.parent.is_dir():
        raise BadOptionError(f"--out {out}: there is no folder {out.parent}. Make it (mkdir -p), or give another name.")
    if out.exists() and any(file_of(one).exists() and out.samefile(file_of(one)) for one in edits):
        raise BadOptionError(
            f"--out {out} is the file of the edits itself; give another name, such as subgraphs.jsonl."
        )


def _edit_file(arguments: list[str]) -> str:
    if len(arguments) != 1:
        raise BadOptionError(f"Found {len(arguments)} arguments; expected one file of edits, or --kind KIND and ids.")
    return arguments[0]


def _fetch_ids(opened: WikidataCache, kind: Kind, ids: list[str]) -> None:
    from wikidata_cache.sources.templates import TEMPLATES

    template = TEMPLATES[kind]
    if kind not in ("named", "ends", "at_end"):  # their ids are labels, or ends of relations
        check_ids(ids)
    found = sum(len(answer.facts) for answer in opened.source.ask(template, sorted(set(ids))))
    say(f"{len(set(ids))} ids of kind {kind}: {found} facts in the cache")


def report(fetched: Fetched) -> None:
    """Print the counts of edits, graphs and requests, and the digest over all subgraphs."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, count in _counts(fetched).items():
        if count or name not in ("skipped", "labels that differ"):
            table.add_row(name, f"{count:,}")
    Console().print(table)
    say(f"digest {fetched.digest}")


def _counts(fetched: Fetched) -> dict[str, int]:
    return {
        "edits": len(fetched.graphs),
        "skipped": len(fetched.skipped),
        "labels that differ": len(fetched.contradictions),
        "nodes": sum(len(graph) for graph in fetched.graphs),
        "edges": sum(graph.number_of_edges() for graph in fetched.graphs),
        "requests": fetched.request_counts.requests,
        "ids asked for": fetched.request_counts.asked,
        "ids from the cache": fetched.request_counts.found,
    }


def check_cached(context: typer.Context, source: Source) -> None:
    """Raise BadOptionError for options of the cache with a graph on this machine, which has none."""
    from wikidata_cache.answers.cached_source import CachedSource

    given = [option for name, option in _OF_A_CACHE.items() if _is_typed(context, name)]
    if given and not isinstance(source, CachedSource):
        raise BadOptionError(
            f"{source.name} is a local graph and needs no cache, so leave out {', '.join(given)}. To make a "
            f"smaller graph, use `wikidata-cache extract`; to fill a cache from it, run `wikidata-cache serve` and "
            f"fetch from the URL that it prints."
        )


@contextmanager
def add_fetch_hint(context: typer.Context, source: Source) -> Iterator[None]:
    """Let a CacheMissError name the command as it was typed, without the options that kept it offline."""
    from wikidata_cache.answers.cached_source import CachedSource

    try:
        yield
    except CacheMissError as miss:
        if not isinstance(source, CachedSource):
            raise
        command = source.fetch_hint.command(*context.params["edits"], *_options(context))
        raise CacheMissError(miss.kind, miss.ids, miss.searched, command) from miss


def _options(context: typer.Context) -> Iterator[str]:
    """The options that were typed, word by word."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _LEFT_OUT or not _is_typed(context, name):
            continue
        value = context.params[name]
        for one in value if isinstance(value, list | tuple) else [value]:
            yield parameter.opts[0]
            if one is not True:
                yield str(one)


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
