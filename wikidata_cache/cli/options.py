"""Options that several commands share, and `open_cache`, which opens the graph that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack, cast

import typer

from wikidata_cache.answers.modes import Mode, cache_file, pack_files
from wikidata_cache.errors import BadOptionError, CacheFileError
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages, language_chain
from wikidata_cache.offline import offline_forced
from wikidata_cache.subgraphs.options import Direction, Statements
from wikidata_cache.subgraphs.rules import Rules, read_rules
from wikidata_cache.subgraphs.sampling import Policy

if TYPE_CHECKING:
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.remote import SourceOptions
    from wikidata_cache.source_spec import SourceSpec
    from wikidata_cache.sources.source import Source

OF_A_CACHE = ("cache", "offline", "mode", "pack", "as_of")  # options that a local graph has no use for

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids such as Q1345 or P19.")]
Graph = Annotated[
    str | None,
    typer.Option(
        "--graph",
        "-g",
        envvar="KG_GRAPH",
        metavar="GRAPH",
        show_default="the cache file, and the packaged extract for what it lacks; --offline: the file alone, if any",
        help="`extract` (packaged), graph file (.nt or .tsv, also .gz), folder, store made by `load`, "
        "`oxigraph:FOLDER` or SPARQL URL.",
    ),
]
Contact = Annotated[
    str | None,
    typer.Option(
        envvar="KG_EDIT_CONTACT", metavar="ADDRESS", help="Your e-mail address or URL, which Wikimedia requires."
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        envvar="KG_CACHE",
        metavar="FILE",
        show_default="in the user's cache folder",
        help="Cache file for the answers of endpoints.",
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Read the cache only; facts that it lacks are an error.")]
CacheMode = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        show_default="cache_first",
        help="`cache_first` fetches what the cache lacks, `refresh` fetches all again, `online` uses no cache.",
    ),
]
Packs = Annotated[
    list[Path] | None,
    typer.Option(
        "--pack",
        metavar="FILE",
        show_default="KG_PACKS",
        help="Read-only cache file, read after your own. Repeatable.",
    ),
]
AsOf = Annotated[
    str | None, typer.Option(metavar="TIME", help="Read the cache as it was at this time (ISO 8601, UTC), offline.")
]
GraphName = Annotated[str, typer.Option(metavar="NAME", help="Name of the endpoint's graph in the cache.")]

Language = Annotated[
    str | None,
    typer.Option(
        metavar="CODES",
        show_default="English",
        help="Languages of labels, the preferred one first, such as `zh,ko,de`. English is used for what has no other.",
    ),
]

PerNode = Annotated[int, typer.Option(min=0, metavar="N", help="Statements of each expanded item.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the sampling.")]
SamplingPolicy = Annotated[Policy, typer.Option(help="How the statements of an item are sampled.")]
ExpandDirection = Annotated[Direction, typer.Option(help="`both` also expands along incoming statements.")]
StatementRanks = Annotated[Statements, typer.Option(help="`all` takes every rank except deprecated.")]
RuleFile = Annotated[
    Path | None,
    typer.Option(
        "--rules", metavar="FILE.tsv", help="Read only what follows from the edit by a rule of this table of `rules`."
    ),
]
Values = Annotated[
    bool,
    typer.Option("--values", help="Take dates and quantities too, such as a date of birth or a population."),
]
Roots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        show_default="target_new",
        help="End of an edit to expand: `target_new`, `subject` or `target_true`. Repeatable.",
    ),
]


def open_cache(
    graph: SourceSpec | None,
    *,
    context: typer.Context | None = None,
    check_cache_options: bool = True,
    offline: bool = False,
    language: str | None = None,
    **options: Unpack[SourceOptions],
) -> WikidataCache:
    """Open the graph that the options name. The first line that fits counts, and the code has the same order:

        a graph is given                        this graph; the answers of an endpoint go through the cache file
        mode refresh, online or cache_first     refused, since these modes need an endpoint
        as_of                                   the cache file alone, as it was at that time
        no cache file and no pack               the packaged extract (`_has_cache` says what counts)
        no mode                                 the cache file, and the packaged extract for what it lacks
        mode offline                            the cache file alone

    Args:
        graph: the graph of --graph, or None.
        context: the command line, for `check_cache_options`; None for a call from Python.
        check_cache_options: refuse options of the command line that cannot be meant: a --cache that names no file,
            where the cache file would be read, and options of the cache with a local graph. The environment may have
            both, for other commands.
        offline: --offline, the same as the mode "offline".
        language: --language.
        options: those of `open_source`.
    """
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.extract import packaged_extract

    languages = read_languages(language)
    mode = mode_from_options(options.get("mode"), offline=offline)
    source_options: SourceOptions = {**options, "mode": mode}
    if graph is not None:
        opened = WikidataCache(graph, languages=languages, **source_options)
        if check_cache_options:
            refuse_options_of_cache(context, opened.source)
        return opened
    if mode not in (None, "offline") or options.get("as_of") is not None:
        return WikidataCache(None, languages=languages, **source_options)  # refuses every mode but offline
    if check_cache_options:
        _refuse_missing_cache(context, options)
    if not _has_cache(options):
        return WikidataCache(packaged_extract(), languages=languages)
    if mode is None:
        return _open_cache_with_extract(languages, source_options)
    return WikidataCache(None, languages=languages, **source_options)


def _refuse_missing_cache(context: typer.Context | None, options: SourceOptions) -> None:
    """Raise CacheFileError if --cache names no file; one that the environment names may be made later."""
    path = cache_file(options.get("cache"))
    if is_given(context, "cache") and not path.exists():
        raise CacheFileError(path, "there is no such file", "Check --cache; `wikidata-cache fetch` makes the file.")


def _has_cache(options: SourceOptions) -> bool:
    """Return whether a cache file or a pack is named, or the user's own cache file exists.

    A named cache file counts even if it does not exist: it is read like an empty one.
    """
    return bool(options.get("cache") or pack_files(options.get("packs", ())) or cache_file().exists())


def _open_cache_with_extract(languages: Languages, options: SourceOptions) -> WikidataCache:
    """Open the cache file, with the packaged extract for what it lacks."""
    from wikidata_cache.answers.cached_source import CachedSource, FallbackSource
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.extract import add_labels, packaged_extract
    from wikidata_cache.source_spec import open_source
    from wikidata_cache.sources.oxigraph import OxigraphSource

    cached = cast(CachedSource, open_source(None, **options))
    extract = OxigraphSource.from_files(add_labels([packaged_extract()], languages))
    return WikidataCache(FallbackSource(cached, extract), languages=languages)


def refuse_options_of_cache(context: typer.Context | None, source: Source) -> None:
    """Raise BadOptionError if the command line has options of the cache, and the source is a local graph."""
    from wikidata_cache.answers.cached_source import CachedSource

    given = [f"--{name.replace('_', '-')}" for name in (*OF_A_CACHE, "graph_name") if is_given(context, name)]
    if given and not isinstance(source, CachedSource):
        raise BadOptionError(
            f"{source.name} is a local graph and needs no cache, so leave out {', '.join(given)}. To fill a "
            "cache from it, serve it with `oxigraph serve-read-only` and fetch from that URL."
        )


def is_given(context: typer.Context | None, name: str) -> bool:
    """Return whether the command line has a parameter; one from the environment does not count.

    `context` is the command line, or None for a call from Python, which has none.
    """
    if context is None:
        return False
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def mode_from_options(mode: Mode | None, *, offline: bool) -> Mode | None:
    """Return the mode from --mode, --offline and KG_OFFLINE."""
    if offline and mode not in (None, "offline"):
        raise BadOptionError(f"--offline and --mode {mode} disagree; give one of them.")
    if offline_forced() and mode in ("refresh", "online"):
        raise BadOptionError(
            f"--mode {mode} needs an endpoint, but KG_OFFLINE is set; unset KG_OFFLINE, or leave out --mode."
        )
    if offline or offline_forced():
        return "offline"
    return mode


def read_languages(language: str | None) -> Languages:
    """Return the chain of --language, or the default one without it."""
    if language is None:
        return DEFAULT_LANGUAGES
    return language_chain(language)


def read_rule_file(path: Path | None) -> Rules | None:
    """Return the rules of --rules, or None without it."""
    if path is None:
        return None
    return read_rules(path)
