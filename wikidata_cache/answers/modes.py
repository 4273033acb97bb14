"""The settings of the cache: modes (offline, cache_first, refresh, online), files, packs, times and fetch hints.

Environment variables: KG_OFFLINE forbids the network; KG_CACHE names the cache file; KG_PACKS names read-only caches
that are read after it. Times are ISO 8601 in UTC with milliseconds, so that they can be compared as text. A `FetchHint`
has the commands that fetch what an offline cache lacks.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import platformdirs

from kg_common.atomic import user_path
from wikidata_cache.endpoints.action_api import is_action_api
from wikidata_cache.endpoints.rate_limit import wants_contact
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import WIKIDATA_API
from wikidata_cache.offline import offline_forced

Mode = Literal["offline", "cache_first", "refresh", "online"]
"""What a `CachedSource` does.

- offline: read the cache only, without network access.
- cache_first: read the cache, ask the endpoint for missing facts, and cache the answers.
- refresh: ask the endpoint for everything again, and cache the new versions.
- online: ask the endpoint for everything; neither read nor write the cache.
"""

# The endpoints of Wikidata: the query service, and the Action API, which is asked while that service limits requests.
WIKIDATA = ("https://query.wikidata.org/sparql", WIKIDATA_API)
_CONTACT = "YOU@EXAMPLE.ORG"


def effective_mode(mode: Mode | None, *, endpoint: bool, as_of: str | None = None) -> Mode:
    """Return the mode in effect: "offline" if KG_OFFLINE or `as_of` is set or there is no endpoint, else `mode`.

    The default is "cache_first".
    """
    if mode is not None and mode not in get_args(Mode):
        raise BadOptionError(f"mode={mode!r}: expected one of {', '.join(get_args(Mode))}.")
    if as_of is not None and mode not in (None, "offline"):
        raise BadOptionError(f"as_of={as_of!r} reads the cache only, so it needs mode='offline'; found mode={mode!r}.")
    if mode not in (None, "offline") and not endpoint:
        raise BadOptionError(f"mode={mode!r} needs an endpoint, but none is given. Give a SPARQL URL as the source.")
    if offline_forced() or as_of is not None or not endpoint:
        return "offline"
    return mode or "cache_first"


def cache_file(path: str | Path | None = None) -> Path:
    """Return the cache file: `path`, else KG_CACHE, else cache.sqlite in the user's cache folder."""
    chosen = path or os.environ.get("KG_CACHE", "").strip()
    if chosen:
        return user_path(chosen)
    return Path(platformdirs.user_cache_dir("wikidata-cache", appauthor=False)) / "cache.sqlite"


def pack_files(packs: Sequence[str | Path] = ()) -> list[Path]:
    """Return the read-only cache files: `packs`, else those of KG_PACKS (separated as in PATH)."""
    chosen = list(packs)
    if not chosen:
        chosen += [part for part in os.environ.get("KG_PACKS", "").split(os.pathsep) if part.strip()]
    return [user_path(pack) for pack in chosen]


def utc(time: str) -> str:
    """Convert an ISO 8601 time to UTC with milliseconds, so that times can be compared as text.

    A time without a zone counts as UTC.
    """
    try:
        moment = datetime.fromisoformat(time)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        moment = moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):  # in UTC, a time may be before the year 1
        raise BadOptionError(f"{time!r} is not a time: expected ISO 8601 such as 2026-11-20T12:00:00+00:00.") from None
    return moment.isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class FetchHint:
    """Commands that fetch facts into the file `cache`, under the name `graph`, from the endpoints `urls`.

    Without any http address among `urls`, the commands name the endpoints of Wikidata.
    """

    cache: Path
    graph: str
    urls: Sequence[str]

    def command(self, *what: str) -> str:
        """Return the shell command `wikidata-cache fetch WHAT...` with endpoint, cache, contact and graph name."""
        words = []
        if offline_forced():
            words += ["env", "-u", "KG_OFFLINE"]
        words += ["wikidata-cache", "fetch", *what]
        for url in self._endpoints:
            words += ["--endpoint", url]
        words += ["--cache", str(self.cache)]
        if self._wants_contact:
            words += ["--contact", _CONTACT]
        if self.graph != "wikidata":
            words += ["--graph-name", self.graph]
        return shlex.join(words)

    def for_query(self) -> str:
        """Return the Python call that runs and caches a user's own query; there is no shell command for that."""
        urls = [url for url in self._endpoints if not is_action_api(url)] or [WIKIDATA[0]]
        options = [repr(urls)]
        if len(urls) == 1:
            options = [repr(urls[0])]
        options.append(f"cache={str(self.cache)!r}")
        if self._wants_contact:
            options.append(f"contact={_CONTACT!r}")
        if self.graph != "wikidata":
            options.append(f"graph_name={self.graph!r}")
        return f"WikidataCache({', '.join(options)}).query(...)"

    @property
    def _endpoints(self) -> list[str]:
        """The endpoints to name; a cache file that somebody else made may have other texts than addresses."""
        urls = [url for url in self.urls if url.startswith(("http://", "https://"))]
        return urls or list(WIKIDATA)

    @property
    def _wants_contact(self) -> bool:
        return any(map(wants_contact, self._endpoints))
