"""`examine` checks an installation: versions, packaged extract, cache files, rate limits, optional libraries, source.

It sends no request, unless the source to be checked is an endpoint.
"""

import os
import platform
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.modes import cache_file, pack_files
from wikidata_cache.answers.store import AnswerStore, Inventory, take_inventory
from wikidata_cache.cache import WikidataCache
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.endpoints.rate_limit import RateLimiter, RateLimitState, after_clock_jump, offline_forced
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.extract import packaged_extract
from wikidata_cache.ids import release
from wikidata_cache.source_spec import SourceSpec
from wikidata_cache.stores.manifest import count_triples, is_engine, read_manifest, store_of
from wikidata_cache.subgraphs.options import SubgraphOptions

_PACKAGES = ("pyoxigraph", "SPARQLWrapper", "networkx", "rdflib")
_EXTRAS = {"pandas": "to_dataframe()", "torch_geometric": "to_pyg()"}
_KNOWN = "Q1345"  # Philadelphia, in the packaged extract
_FAILURES = (WikidataCacheError, OSError, RuntimeError, ValueError, sqlite3.Error, PackageNotFoundError)


@dataclass(frozen=True)
class Finding:
    """The result of one check: `what` was checked, what was `found` (a text), and whether it is `ok`."""

    what: str
    found: str
    ok: bool = True


def examine(graph: SourceSpec | None = None, *, cache: Path | None = None) -> Iterator[Finding]:
    """Check versions, the packaged extract, the cache file and its packs, rate limits of hosts, and optional libraries.

    With `graph`, also check that this source opens and answers. For a store made by `load`, the sha256 of every file is
    compared with the manifest. An endpoint gets a few small requests.
    """
    yield Finding("release", f"wikidata-cache {release()}, Python {platform.python_version()}")
    yield _tried("packages", lambda: ", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    yield _tried("SQLite", _sqlite)
    yield _tried("packaged extract", lambda: _answers(WikidataCache(packaged_extract())))
    yield from _cache(cache_file(cache))
    for pack in pack_files():
        yield _tried(f"pack {pack}", lambda pack=pack: _counted(take_inventory(pack)))  # type: ignore[misc]
    yield from _surroundings()
    if graph is not None:
        whole = yield from _store(graph)
        if not whole:  # on a damaged database, the engine may allocate any amount of memory
            return
        yield _tried(f"source {graph}", lambda: _source(graph, cache))


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except _FAILURES as error:
        return Finding(what, str(error) or type(error).__name__, ok=False)


def _store(graph: SourceSpec) -> Generator[Finding, None, bool]:
    """Check the database of a store: yield the finding; return False where the database is unreadable or changed."""
    folder = Path(str(graph).removeprefix("oxigraph:")).expanduser() if isinstance(graph, str | Path) else None
    try:
        store = store_of(folder) if folder else None
        plain = folder if folder and store is None and is_engine(folder) else None
    except OSError:  # opening the source reports this error
        return True
    if store is None and plain is None:
        return True
    finding = _tried(f"store {store or plain}", lambda: _compared(store) if store else _read(plain or Path()))
    yield finding
    return finding.ok


def _read(plain: Path) -> str:
    return f"all {count_triples(plain):,} triples can be read (not checked: only stores made by `load` have hashes)"


def _compared(store: Path) -> str:
    files = read_manifest(store, every=True).files
    size = sum(file.bytes for file in files.values())
    return f"intact: all {len(files)} files ({size / 1e6:,.1f} MB) have the sha256 that `load` recorded"


def _sqlite() -> str:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
    finally:
        connection.close()
    return f"{sqlite3.sqlite_version}, with full-text search"


def _source(graph: SourceSpec, cache: Path | None) -> str:
    """Return that a graph answers. Each endpoint is asked itself: its cache would hide that it is down."""
    source = WikidataCache(graph, cache=cache).source
    if not isinstance(source, CachedSource) or source.mode == "offline":
        return _answers(WikidataCache(source))
    limiter = RateLimiter(AnswerStore(cache_file(cache)).rate_limits)
    return "; ".join(_answers(WikidataCache(EndpointSource(url, limiter=limiter))) for url in source.fetch_hint.urls)


def _answers(cache: WikidataCache) -> str:
    graph = cache.neighbourhood(_KNOWN, SubgraphOptions(hops=1, per_node=10))
    if not graph.number_of_edges():
        raise WikidataCacheError(f"the graph opens, but has no statement about {_KNOWN} (Philadelphia)")
    label, digest = graph.nodes[_KNOWN]["label"], graph.graph["content_hash"][:12]
    return f"answers: {label} ({_KNOWN}) has statements, content hash {digest}"


def _cache(path: Path) -> Iterator[Finding]:
    yield _tried(f"cache {path}", lambda: _counted(take_inventory(path)))
    try:
        hosts = (take_inventory(path) or Inventory({}, 0, None, {})).hosts
    except _FAILURES:  # the finding above reports this error
        return
    for host, state in hosts.items():
        until, since = (float(str(state.get(name, 0))) for name in ("not_before", "held_at"))
        held = after_clock_jump(RateLimitState(not_before=until, held_at=since), time.time())
        wait = held.not_before - time.time()
        said = f"asks to wait {wait:.0f} s more: {state.get('reason')}" if wait > 0 else "no wait needed"
        yield Finding(f"host {host}", said)


def _counted(inventory: Inventory | None) -> str:
    if inventory is None:
        return "does not exist yet; the first fetch creates it"
    kinds = ", ".join(f"{count} {kind} ({graph})" for (graph, kind), count in inventory.facts.items())
    span = f"; answers from {inventory.span[0]} to {inventory.span[1]}" if inventory.span else ""
    return f"intact: {kinds or 'no facts'}; {inventory.requests} requests{span}"


def _surroundings() -> Iterator[Finding]:
    yield Finding("network", "forbidden by KG_OFFLINE" if offline_forced() else "allowed (KG_OFFLINE is not set)")
    contact = os.environ.get("KG_EDIT_CONTACT", "")
    yield Finding("contact", contact or "not set; Wikimedia endpoints need --contact or KG_EDIT_CONTACT")
    for module, use in _EXTRAS.items():
        there = find_spec(module) is not None
        yield Finding(
            module, f"installed, for {use}" if there else f'optional, for {use}: pip install "kg-edit[notebooks]"'
        )
