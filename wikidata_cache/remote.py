"""Open endpoints behind their cache of answers, or the cache alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.modes import Mode, cache_file, effective_mode, pack_files
from wikidata_cache.answers.store import AnswerStore, open_pack
from wikidata_cache.endpoints.action_api import ActionApi, is_action_api
from wikidata_cache.endpoints.chain import EndpointChain
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.endpoints.rate_limit import RateLimiter
from wikidata_cache.endpoints.web import is_http_address
from wikidata_cache.errors import SourceStringError
from wikidata_cache.sources.source import Source


class SourceOptions(TypedDict, total=False):
    """The options of endpoints and of their answer cache, which `open_source` explains."""

    contact: str | None
    timeout: float
    cache: str | Path | None
    mode: Mode | None
    packs: Sequence[str | Path]
    as_of: str | None
    graph_name: str


def open_remote(
    urls: Sequence[str],
    *,
    contact: str | None = None,
    timeout: float = 90.0,
    cache: str | Path | None = None,
    mode: Mode | None = None,
    packs: Sequence[str | Path] = (),
    as_of: str | None = None,
    graph_name: str = "wikidata",
) -> Source:
    """Open the endpoints with these URLs as one source; without URLs, the cache alone. See `open_source`."""
    for url in urls:
        if not is_http_address(url):
            raise SourceStringError(f"{url!r} is not the address of an endpoint; expected such as https://host/sparql.")
    mode = effective_mode(mode, endpoint=bool(urls), as_of=as_of)
    store = AnswerStore(cache_file(cache))
    # Processes with one cache file share the limits of the hosts. Mode "online" does not touch that file.
    limiter = RateLimiter()
    if mode != "online":
        limiter = RateLimiter(store.rate_limits)

    def open_endpoints() -> Source:
        opened = [open_endpoint(url, contact=contact, timeout=timeout, limiter=limiter) for url in urls]
        if len(opened) == 1:
            return opened[0]
        return EndpointChain(opened)

    # An endpoint that is never needed, because the cache has all answers, needs no contact.
    inner: Source | Callable[[], Source] | None = None
    if mode == "cache_first":
        inner = open_endpoints
    elif mode != "offline":
        inner = open_endpoints()
    opened_packs = [open_pack(pack) for pack in pack_files(packs)]
    return CachedSource(inner, store, mode=mode, graph=graph_name, packs=opened_packs, as_of=as_of, urls=urls)


def open_endpoint(
    url: str, *, contact: str | None = None, timeout: float = 90.0, limiter: RateLimiter | None = None
) -> EndpointSource:
    """Open a URL as an Action API if it ends in api.php, else as a SPARQL endpoint, with the options of both."""
    if is_action_api(url):
        return ActionApi(url, contact=contact, timeout=timeout, limiter=limiter)
    return EndpointSource(url, contact=contact, timeout=timeout, limiter=limiter)
