"""`examine` checks an installation: versions, packaged extract, cache files, rate limits, optional libraries, source.

It sends no request, unless the source to be checked is an endpoint.
"""

import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from kg_common.atomic import user_path
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.modes import cache_file, pack_files
from wikidata_cache.answers.store import AnswerStore, take_inventory
from wikidata_cache.cache import WikidataCache
from wikidata_cache.endpoints.rate_limit import RateLimiter, RateLimitState, after_clock_jump
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.extract import packaged_extract
from wikidata_cache.ids import DIRECT, ENTITY, local_id
from wikidata_cache.offline import offline_forced
from wikidata_cache.remote import open_endpoint
from wikidata_cache.source_spec import SourceSpec
from wikidata_cache.stores.manifest import count_triples, is_engine, read_manifest, store_of
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.version import release

_PACKAGES = ("pyoxigraph", "SPARQLWrapper", "networkx", "rdflib")
_EXTRAS = {"pandas": "to_dataframe()", "torch_geometric": "to_pyg()"}
_KNOWN = "Q1345"  # Philadelphia, in the packaged extract
_ANY_ITEM = (
    f'SELECT ?s WHERE {{ ?s ?p ?o . FILTER(isIRI(?o)) FILTER(STRSTARTS(STR(?s), "{ENTITY}Q")) '
    f'FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) }} LIMIT 1'
)
_FAILURES = (WikidataCacheError, OSError, RuntimeError, ValueError, sqlite3.Error, PackageNotFoundError)


@dataclass(frozen=True)
class Finding:
    """The result of one check: `what` was checked, its `result` (a text), and whether it is `ok`."""

    what: str
    result: str
    ok: bool = True


def examine(graph: SourceSpec | None = None, *, cache: Path | None = None) -> Iterator[Finding]:
    """Check versions, the packaged extract, the cache file and its packs, rate limits of hosts, and optional libraries.

    Args:
        graph: also check that this source opens and answers. For a store made by `load`, the sha256 of every file is
            compared with the manifest. An endpoint gets a few small requests.
        cache: the cache file (default: the usual one).

    Yields:
        The result of each check, as soon as it is known.
    """
    yield Finding("release", f"wikidata-cache {release()}, Python {platform.python_version()}")
    yield _check("packages", _list_versions)
    yield _check("SQLite", _try_sqlite)
    yield _check("packaged extract", lambda: _try_question(WikidataCache(packaged_extract())))

    path = cache_file(cache)
    finding, hosts = _check_cache(f"cache {path}", path)
    yield finding
    yield from _check_hosts(hosts)
    for pack in pack_files():
        finding, _ = _check_cache(f"pack {pack}", pack)
        yield finding

    yield from _check_environment()
    if graph is not None:
        database = _check_database(graph)
        if database is not None:
            yield database
        is_damaged = database is not None and not database.ok
        if not is_damaged:  # on a damaged database, the engine may allocate any amount of memory
            yield _check(f"source {graph}", lambda: _try_source(graph, cache))


def _check_environment() -> Iterator[Finding]:
    """Report the environment variables and the optional libraries."""
    network = "allowed (KG_OFFLINE is not set)"
    if offline_forced():
        network = "forbidden by KG_OFFLINE"
    yield Finding("network", network)
    contact = os.environ.get("KG_EDIT_CONTACT", "")
    yield Finding("contact", contact or "not set; Wikimedia endpoints need --contact or KG_EDIT_CONTACT")
    for module, use in _EXTRAS.items():
        result = f"optional, for {use}: pip install {module}"
        if find_spec(module):
            result = f"installed, for {use}"
        yield Finding(module, result)


def _check_cache(what: str, path: Path) -> tuple[Finding, Mapping[str, RateLimitState]]:
    """Read a whole cache file; return what it contains, and the rate limits of the hosts that it knows."""
    try:
        inventory = take_inventory(path)
    except _FAILURES as error:
        return _report_error(what, error), {}
    if inventory is None:
        return Finding(what, "does not exist yet; the first fetch creates it"), {}
    kinds = ", ".join(f"{count} {kind} ({graph})" for (graph, kind), count in inventory.facts.items())
    result = f"intact: {kinds or 'no facts'}; {inventory.requests} requests"
    if inventory.span:
        first, last = inventory.span
        result += f"; answers from {first} to {last}"
    return Finding(what, result), inventory.hosts


def _check_hosts(hosts: Mapping[str, RateLimitState]) -> Iterator[Finding]:
    """Report for each host whether a request may be sent now."""
    for host, state in hosts.items():
        wait = after_clock_jump(state, time.time()).not_before - time.time()
        result = "no wait needed"
        if wait > 0:
            result = f"requires {wait:.0f} s more of waiting: {state.reason}"
        yield Finding(f"host {host}", result)


def _check(what: str, check: Callable[[], str]) -> Finding:
    """Return what a check returns as a finding, or the error that it raises as one that is not ok."""
    try:
        return Finding(what, check())
    except _FAILURES as error:
        return _report_error(what, error)


def _report_error(what: str, error: Exception) -> Finding:
    return Finding(what, str(error) or type(error).__name__, ok=False)


def _list_versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)


def _try_sqlite() -> str:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
    return f"{sqlite3.sqlite_version}, with full-text search"


def _try_question(cache: WikidataCache) -> str:
    """Ask for the statements of one item, and return the answer in words; raise WikidataCacheError without any item."""
    entity = _KNOWN
    if not cache.facts.out([entity])[entity]:  # a graph of something else
        rows = cache.source.select(_ANY_ITEM)
        if not rows:
            raise WikidataCacheError("the graph opens, but has no statement about an item")
        entity = local_id(rows[0]["s"])
    subgraph = cache.neighbourhood(entity, SubgraphOptions(hops=1, per_node=10))
    label = subgraph.nodes[entity]["label"]
    digest = subgraph.graph["content_hash"][:12]
    return f"answers: {label} ({entity}) has statements, content hash {digest}"


def _check_database(graph: SourceSpec) -> Finding | None:
    """Check the database of a store made by `load`, or a plain one; return None for another kind of graph."""
    if not isinstance(graph, str | Path):
        return None
    folder = user_path(str(graph).removeprefix("oxigraph:"))
    try:
        store = store_of(folder)
        is_database = is_engine(folder)
    except OSError:  # opening the source reports this error
        return None
    if store is not None:
        return _check(f"store {store}", lambda: _compare_hashes(store))
    if is_database:
        return _check(f"store {folder}", lambda: _read_triples(folder))
    return None


def _compare_hashes(store: Path) -> str:
    files = read_manifest(store, every=True).files  # hashes every file, and raises an error if one differs
    size = sum(file.bytes for file in files.values())
    return f"intact: all {len(files)} files ({size / 1e6:,.1f} MB) have the sha256 that `load` recorded"


def _read_triples(folder: Path) -> str:
    count = count_triples(folder)
    return f"all {count:,} triples can be read (not checked: only stores made by `load` have hashes)"


def _try_source(graph: SourceSpec, cache: Path | None) -> str:
    source = WikidataCache(graph, cache=cache).source
    if not isinstance(source, CachedSource) or source.mode == "offline":
        return _try_question(WikidataCache(source))
    # Each endpoint gets a request of its own: the cache would hide that it is down.
    answers = []
    with AnswerStore(cache_file(cache)) as store:
        limiter = RateLimiter(store.rate_limits)
        for url in source.fetch_hint.urls:
            answers.append(_try_question(WikidataCache(open_endpoint(url, limiter=limiter))))
    return "; ".join(answers)
