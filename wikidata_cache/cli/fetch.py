"""`wikidata-cache fetch`: the subgraphs of a file of edits into the cache, in as few requests as possible.

Offline, facts that the cache lacks are an error with the command that fetches them: the command line itself, without
the options that make it offline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from kg_common.atomic import check_out, write_atomically
from kg_common.ids import is_item
from wikidata_cache.answers.modes import WIKIDATA
from wikidata_cache.cli import options as opt
from wikidata_cache.cli.console import echo
from wikidata_cache.edits import read_edits, strip_row
from wikidata_cache.errors import BadOptionError, CacheMissError
from wikidata_cache.ids import check_ids, is_text
from wikidata_cache.languages import list_families
from wikidata_cache.sources.source import PlainKind
from wikidata_cache.subgraphs.options import Root, SubgraphOptions

if TYPE_CHECKING:
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.fetch import Fetched
    from wikidata_cache.sources.source import Source


# Not repeated in the hint: options that make a command offline, and those that `FetchHint` adds itself.
_LEFT_OUT_OF_HINT = ("edits", "offline", "mode", "as_of", "endpoint", "cache", "contact", "graph_name")
# Options that have an effect with --kind too.
_ALSO_WITH_KIND = ("edits", "endpoint", "contact", *opt.OF_A_CACHE, "graph_name", "kind", "language")


def fetch(
    context: typer.Context,
    edits: Annotated[
        list[str],
        typer.Argument(metavar="EDITS", help="File of edits: .jsonl, .json, .csv or .tsv; with `--kind`, ids."),
    ],
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            "--graph",
            "-g",
            metavar="URL",
            show_default=f"KG_GRAPH, else {', then '.join(WIKIDATA)}",
            help="SPARQL endpoint or Action API (`…/api.php`), or a local graph, such as `extract`. Repeatable; the "
            "next one helps out while the first refuses or limits requests, and the service of scholarly articles "
            "(query-scholarly.wikidata.org) with ids of which the others have nothing.",
        ),
    ] = None,
    contact: opt.Contact = None,
    hops: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Distance up to which to expand; the statements of o* are hop 2."),
    ] = 2,
    per_node: opt.PerNode = 20,
    seed: opt.Seed = 0,
    policy: opt.SamplingPolicy = "uniform",
    direction: opt.ExpandDirection = "out",
    statements: opt.StatementRanks = "truthy",
    root: opt.Roots = None,
    rules: opt.RuleFile = None,
    values: opt.Values = False,
    language: opt.Language = None,
    cache: opt.Cache = None,
    offline: opt.Offline = False,
    mode: opt.CacheMode = None,
    pack: opt.Packs = None,
    as_of: opt.AsOf = None,
    graph_name: opt.GraphName = "wikidata",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl[.gz]", help="File for the subgraphs, one per line.")
    ] = None,
    descriptions: Annotated[
        bool, typer.Option("--descriptions", help="Fetch the descriptions of items too, for `show --html` offline.")
    ] = False,
    sitelinks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="File for the number of Wikipedia pages of each subject: a popularity that `kg-edit` reads.",
        ),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Skip edits that cannot be resolved in the graph.")
    ] = False,
    kind: Annotated[
        PlainKind | None,
        typer.Option(metavar="KIND", help=f"Fetch facts of this kind about ids: {', '.join(get_args(PlainKind))}."),
    ] = None,
) -> None:
    """Fetch the subgraphs of a file of edits into the cache, in few requests.

    Answers in the cache are not fetched again, so the same command resumes an interrupted run. While Wikidata's query
    service refuses or limits requests, its Action API answers what it can: what is stated about ids.

    Examples:

    - `wikidata-cache fetch edits.jsonl --contact me@uni.edu`
    - `wikidata-cache fetch edits.jsonl --endpoint https://www.wikidata.org/w/api.php --contact me@uni.edu`
    - `wikidata-cache fetch edits.jsonl --offline --out subgraphs.jsonl.gz`
    - `wikidata-cache fetch edits.jsonl --graph extract --out subgraphs.jsonl.gz`
    - `wikidata-cache fetch edits.jsonl --values --contact me@uni.edu`
    - `wikidata-cache fetch --kind label Q1345 P19 --contact me@uni.edu`
    - `wikidata-cache fetch edits.jsonl --language zh,ko --contact me@uni.edu`
    """
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.fetch import fetch_edits, write_subgraphs

    _check_arguments(context, edits, kind)
    if sitelinks is not None:
        check_out(sitelinks, ".json", option="--sitelinks", inputs=map(strip_row, edits))
    if out is not None:
        check_out(out, ".jsonl", ".jsonl.gz", option="--out", inputs=map(strip_row, edits))

    mode = opt.mode_from_options(mode, offline=offline)
    opened = WikidataCache(
        _choose_source(endpoint, only_cache=mode == "offline" or as_of is not None),
        contact=contact,
        cache=cache,
        mode=mode,
        packs=pack or (),
        as_of=as_of,
        graph_name=graph_name,
        languages=opt.read_languages(language),
    )
    opt.refuse_options_of_cache(context, opened.source)
    with _add_fetch_hint(context, opened.source):
        if kind is not None:
            _fetch_ids(opened, kind, ids=edits)
            return
        options = SubgraphOptions(
            hops=hops,
            per_node=per_node,
            seed=seed,
            roots=cast(list[Root], root) or ("target_new",),  # SubgraphOptions checks them
            policy=policy,
            direction=direction,
            statements=statements,
            rules=opt.read_rule_file(rules),
            values=values,
        )
        rows = read_edits(edits[0])
        fetched = fetch_edits(opened, rows, path=strip_row(edits[0]), options=options, keep_going=keep_going)
        if descriptions:
            _fetch_descriptions(opened, fetched)
        if sitelinks is not None:
            _write_sitelinks(opened, fetched, sitelinks)
        if out is not None:
            write_subgraphs(out, fetched)
    _print_counts(fetched)


def _check_arguments(context: typer.Context, edits: list[str], kind: PlainKind | None) -> None:
    """Refuse options that don't fit together: those for files of edits with --kind, and several files without it.

    ``edits`` has the arguments: with --kind they are ids, else one file of edits.
    """
    if kind is None:
        if len(edits) != 1:
            raise BadOptionError(f"Found {len(edits)} arguments; expected one file of edits, or --kind KIND and ids.")
        return
    unfit = []
    for parameter in context.command.params:
        if parameter.name not in _ALSO_WITH_KIND and opt.is_given(context, parameter.name or ""):
            unfit.append(parameter.opts[0])
    if unfit:
        raise BadOptionError(
            f"--kind fetches facts about ids, and {', '.join(unfit)} is for files of edits; leave one of them out."
        )


def _choose_source(endpoints: list[str] | None, *, only_cache: bool) -> list[str] | None:
    """Return what is asked: what --endpoint or KG_GRAPH names, else Wikidata; None for the cache alone."""
    if endpoints:
        return endpoints
    # Not `envvar=` of the option, which would divide the value at each space: a path may have one.
    graph_of_environment = os.environ.get("KG_GRAPH")
    if graph_of_environment:
        return [graph_of_environment]
    if only_cache:
        return None
    return list(WIKIDATA)


def _fetch_descriptions(opened: WikidataCache, fetched: Fetched) -> None:
    """Fetch the descriptions of all items in the subgraphs into the cache."""
    items: set[str] = set()
    for graph in fetched.graphs:
        items.update(node for node in graph if is_item(node))
    opened.facts.descriptions(items)


def _write_sitelinks(opened: WikidataCache, fetched: Fetched, path: Path) -> None:
    """Write the number of Wikipedia pages of each subject; a merged one has those of the item that replaces it."""
    subjects = {}
    for edit, graph in zip(fetched.edits, fetched.graphs, strict=True):
        if edit.subject_id:
            subjects[edit.subject_id] = graph.graph["redirects"].get(edit.subject_id, edit.subject_id)
    pages = opened.facts.sitelinks(subjects.values())
    counts = {subject: pages[item] for subject, item in subjects.items() if item in pages}
    echo(f"{path}: the pages of {len(counts)} of {len(subjects)} subjects with an id are known")
    write_atomically(path, (json.dumps(counts, indent=1) + "\n").encode())


def _fetch_ids(opened: WikidataCache, kind: PlainKind, ids: list[str]) -> None:
    """Fetch the facts of a kind about ids into the cache, also those in the languages of --language."""
    from wikidata_cache.sources.templates import TEMPLATES
    from wikidata_cache.sources.wordings import IN_LANGUAGES, write_keys

    families = list_families(opened.facts.languages)
    if families and kind not in IN_LANGUAGES:
        kinds = ", ".join(IN_LANGUAGES)
        raise BadOptionError(f"--language is for --kind {kinds}; facts of the kind {kind} have no words. Leave it out.")
    if kind not in ("named", "ends", "at_end"):  # their ids are labels, or ends of relations
        check_ids(ids)
    for text in ids:
        if not is_text(text):
            raise BadOptionError(f"{text!r} is not UTF-8; type it in a terminal that is.")
    texts = sorted(set(ids))
    count = sum(len(answer.facts) for answer in opened.source.ask(TEMPLATES[kind], texts))
    if families:
        keys = write_keys(kind, texts, families)
        count += sum(len(answer.facts) for answer in opened.source.ask(IN_LANGUAGES[kind], keys))
    echo(f"{len(set(ids))} ids of kind {kind}: {count} facts")


def _print_counts(fetched: Fetched) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    counts = {
        "edits": len(fetched.graphs),
        "skipped": len(fetched.skipped),
        "labels that differ": len(fetched.contradictions),
        "nodes": sum(len(graph) for graph in fetched.graphs),
        "edges": sum(graph.number_of_edges() for graph in fetched.graphs),
        "answered requests": fetched.request_counts.requests,
        "ids requested": fetched.request_counts.requested,
        "ids from the cache": fetched.request_counts.from_cache,
    }
    for name, count in counts.items():
        if count or name not in ("skipped", "labels that differ"):
            table.add_row(name, f"{count:,}")
    Console().print(table)
    echo(f"digest {fetched.digest}")


@contextmanager
def _add_fetch_hint(context: typer.Context, source: Source) -> Iterator[None]:
    """Let a CacheMissError name the command as it was given, without the options that make it offline."""
    from wikidata_cache.answers.cached_source import CachedSource

    try:
        yield
    except CacheMissError as miss:
        if not isinstance(source, CachedSource):
            raise
        raise miss.with_command(source.fetch_hint.command(*_repeat_arguments(context))) from miss


def _repeat_arguments(context: typer.Context) -> list[str]:
    """Return the words of the command line, without the options that the hint adds or that make it offline."""
    words = [*context.params["edits"]]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _LEFT_OUT_OF_HINT or not opt.is_given(context, name):
            continue
        option = parameter.opts[0]
        value = context.params[name]
        if value is True:
            words.append(option)
        elif isinstance(value, list | tuple):
            for entry in value:
                words += [option, str(entry)]
        else:
            words += [option, str(value)]
    return words
