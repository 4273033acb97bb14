"""The rules of caching: modes (offline, cache_first, refresh, online), cache files and packs, times, and fetch hints.

Environment: KG_OFFLINE forbids the network, KG_CACHE names the cache file, KG_PACKS the read-only caches below it.
Times are ISO 8601 in UTC with milliseconds, so that they compare as text. A `FetchHint` is the command that fetches
what an offline cache lacks.
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

from wikidata_cache.endpoints.rate_limit import wants_contact
from wikidata_cache.errors import BadOptionError

Mode = Literal["offline", "cache_first", "refresh", "online"]
"""offline: read the cache, open no socket; cache_first: ask for what the cache lacks, and keep it; refresh: ask
for everything again and keep the new versions; online: ask, and neither read nor write the cache."""

WIKIDATA = "https://query.wikidata.org/sparql"
_CONTACT = "YOU@EXAMPLE.ORG"


def effective_mode(mode: Mode | None, *, endpoint: bool, as_of: str | None = None) -> Mode:
    """The mode in effect: offline where KG_OFFLINE or `as_of` is set, or there is no endpoint.

    Raises BadOptionError for an unknown mode, or one that needs an endpoint where there is none.
    """
    if mode is not None and mode not in get_args(Mode):
        raise BadOptionError(f"mode={mode!r}: expected one of {', '.join(get_args(Mode))}.")
    if as_of is not None and mode not in (None, "offline"):
        raise BadOptionError(f"as_of={as_of!r} replays the cache, so it goes with mode='offline', not {mode!r}.")
    if mode not in (None, "offline") and not endpoint:
        raise BadOptionError(f"mode={mode!r} asks an endpoint, and none is given. Give a SPARQL URL as the source.")
    return "offline" if offline_forced() or as_of or not endpoint else mode or "cache_first"


def offline_forced() -> bool:
    """Whether the environment sets KG_OFFLINE to anything but 0, false, no or nothing."""
    return os.environ.get("KG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def cache_file(path: str | Path | None = None) -> Path:
    """The cache file: the one given, else KG_CACHE, else cache.sqlite in the user's cache folder."""
    chosen = path or os.environ.get("KG_CACHE", "").strip()
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("wikidata-cache", appauthor=False)) / "cache.sqlite"


def pack_files(packs: Sequence[str | Path] = ()) -> list[Path]:
    """The read-only caches below the user's own: those given, else those of KG_PACKS (separated as in PATH)."""
    chosen = list(packs) or [part for part in os.environ.get("KG_PACKS", "").split(os.pathsep) if part.strip()]
    return [Path(pack).expanduser() for pack in chosen]


def utc(time: str) -> str:
    """An ISO 8601 time in UTC with milliseconds, so that times compare as text; without a zone it is UTC.

    Raises BadOptionError where it is no time.
    """
    try:
        moment = datetime.fromisoformat(time)
    except (ValueError, TypeError):
        raise BadOptionError(f"{time!r} is no time: expected ISO 8601 such as 2026-11-20T12:00:00+00:00.") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def now() -> str:
    """The present time in the form of `utc`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class FetchHint:
    """Commands that fetch into `cache`, under the name `graph`, from `urls` (Wikidata where none is known)."""

    cache: Path
    graph: str
    urls: Sequence[str]

    def command(self, *what: str) -> str:
        """The shell command `wikidata-cache fetch WHAT...` with endpoint, cache, contact and graph name."""
        words = ["wikidata-cache", "fetch", *what]
        for url in self._endpoints:
            words += ["--endpoint", url]
        words += ["--cache", str(self.cache)]
        if self._contact:
            words += ["--contact", _CONTACT]
        if self.graph != "wikidata":
            words += ["--graph-name", self.graph]
        return shlex.join((["env", "-u", "KG_OFFLINE"] if offline_forced() else []) + words)

    def for_query(self) -> str:
        """The Python call that keeps the rows of a user's own query, for which there is no command."""
        urls = self._endpoints
        options = [repr(urls[0] if len(urls) == 1 else urls), f"cache={str(self.cache)!r}"]
        options += [f"contact={_CONTACT!r}"] if self._contact else []
        options += [f"graph_name={self.graph!r}"] if self.graph != "wikidata" else []
        return f"WikidataCache({', '.join(options)}).query(...)"

    @property
    def _endpoints(self) -> list[str]:
        return [url for url in self.urls if url.startswith(("http://", "https://"))] or [WIKIDATA]

    @property
    def _contact(self) -> bool:
        return any(map(wants_contact, self._endpoints))
