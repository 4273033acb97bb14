"""Options that several commands share, and `open_cache`, which opens the graph that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wikidata_cache.answers.modes import Mode, cache_file, pack_files
from wikidata_cache.endpoints.rate_limit import offline_forced
from wikidata_cache.errors import BadOptionError

if TYPE_CHECKING:
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.source_spec import SourceSpec

Graph = Annotated[
    str | None,
    typer.Option(
        "--graph",
        "-g",
        envvar="KG_GRAPH",
        help="FILE.nt.gz, .nt, .tsv, .tsv.gz, a folder, a store made by `load`, oxigraph:FOLDER or a SPARQL URL; "
        "by default the cache file, if there is one, and the small packaged extract for what the cache lacks; "
        "with --offline the cache file only.",
    ),
]
Contact = Annotated[
    str | None,
    typer.Option(envvar="KG_EDIT_CONTACT", help="Your e-mail address or URL; Wikimedia endpoints require it."),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        envvar="KG_CACHE", metavar="FILE", help="Cache file for the answers. Default: in the user's cache folder."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the network; what the cache lacks is an error.")]
CacheMode = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="cache_first fetches what the cache lacks, refresh fetches all again, online does not use the cache.",
        show_default="cache_first",
    ),
]
Packs = Annotated[
    list[Path] | None,
    typer.Option(
        "--pack", metavar="FILE", help="Additional read-only cache file, read after your own (KG_PACKS); repeatable."
    ),
]
AsOf = Annotated[
    str | None, typer.Option(metavar="TIME", help="Replay the cache offline as it was at this time (ISO 8601, UTC).")
]
GraphName = Annotated[str, typer.Option(help="Name of the endpoint's graph in the cache.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids such as Q1345 or P19.")]


def open_cache(
    graph: SourceSpec | None,
    contact: str | None,
    *,
    cache: Path | None = None,
    offline: bool = False,
    mode: Mode | None = None,
    packs: Sequence[str | Path] | None = None,
    as_of: str | None = None,
    graph_name: str = "wikidata",
) -> WikidataCache:
    """Open the given graph; without one the cache, with the packaged extract for what it lacks.

    Offline it is the cache alone, and the extract only where there is no cache file. Raises BadOptionError
    as `mode_from_options` does, and for options of the cache with a local graph; and what `open_source` raises.
    """
    from wikidata_cache.answers.cached_source import CachedSource
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.extract import packaged_extract
    from wikidata_cache.source_spec import open_with_fallback

    mode, packs = mode_from_options(mode, offline=offline), tuple(packs or ())
    if graph is None and as_of is None and mode in (None, "offline"):
        if not (cache or pack_files(packs) or cache_file().exists()):
            return WikidataCache(packaged_extract(), contact=contact)
        if mode is None:
            return WikidataCache(
                open_with_fallback(packaged_extract(), cache=cache, packs=packs, graph_name=graph_name)
            )
    opened = WikidataCache(
        graph,
        cache=cache,
        mode=mode,
        packs=packs,
        as_of=as_of,
        contact=contact,
        graph_name=graph_name,
    )
    if (packs or mode in ("refresh", "online")) and not isinstance(opened.source, CachedSource):
        raise BadOptionError(f"{opened.source.name} is a local graph and needs no cache; leave out --pack and --mode.")
    return opened


def mode_from_options(mode: Mode | None, *, offline: bool) -> Mode | None:
    """The mode from --mode, --offline and KG_OFFLINE; raises BadOptionError where they contradict each other."""
    if offline and mode not in (None, "offline"):
        raise BadOptionError(f"--offline and --mode {mode} disagree; give one of them.")
    if offline_forced() and mode in ("refresh", "online"):
        raise BadOptionError(
            f"--mode {mode} needs an endpoint, but KG_OFFLINE is set; unset KG_OFFLINE, or leave out --mode."
        )
    return "offline" if offline or offline_forced() else mode
