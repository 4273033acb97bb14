"""A cache as one file to share: JSON lines, sorted, gzipped, with a hash; the same cache gives the same bytes."""

import gzip
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.answers.values import dumps, unpack
from wikidata_cache.errors import CacheFileError

FORMAT = "wikidata-cache snapshot/1"
LICENCE = "CC0 (Wikidata)"

_FACTS = """
SELECT graph, kind, id, fetched_at, url, value FROM facts
WHERE (:graph IS NULL OR graph = :graph) AND fetched_at <= :as_of ORDER BY graph, kind, id, fetched_at"""
# A bare column beside max() comes from the row with the maximum.
_NEWEST_FACTS = """
SELECT graph, kind, id, max(fetched_at), url, value FROM facts
WHERE (:graph IS NULL OR graph = :graph) AND fetched_at <= :as_of GROUP BY graph, kind, id ORDER BY graph, kind, id"""
_LOG = """
SELECT record FROM queries
WHERE (:graph IS NULL OR graph = :graph) AND fetched_at <= :as_of ORDER BY graph, fetched_at, key"""


@dataclass
class Summary:
    """What a snapshot holds; the header says the same."""

    created: str = ""  # the newest fetched_at in it
    graphs: set[str] = field(default_factory=set)
    urls: set[str] = field(default_factory=set)
    facts: int = 0
    queries: int = 0
    sha256: str = ""

    def header(self) -> str:
        """The first line of the file."""
        said = {
            "format": FORMAT,
            "created": self.created,
            "graphs": sorted(self.graphs),
            "urls": sorted(self.urls),
            "licence": LICENCE,
            "counts": {"facts": self.facts, "queries": self.queries},
            "sha256": self.sha256,
        }
        return dumps(said) + "\n"


def export_snapshot(
    store: AnswerStore,
    path: str | Path,
    *,
    newest_only: bool = False,
    as_of: str | None = None,
    graph_name: str | None = None,
) -> Summary:
    """Write what a cache holds, all versions of it or the newest, up to the time `as_of` (as `utc` writes it).

    `graph_name` limits it to one graph. The file appears whole or not at all. Raises CacheFileError where
    there is nothing to export, and where the file cannot be written.
    """
    path = Path(path)
    with store.database.reading() as connection:
        if connection is None:
            raise CacheFileError(store.path, "there is no cache file", "Check --cache (cache=...) and KG_CACHE.")
        chosen = _Choice(connection, newest_only, {"graph": graph_name, "as_of": as_of or "9999"})
        summary = chosen.summary()
        if not summary.facts:
            raise CacheFileError(store.path, "holds nothing of that to export", "Check the graph's name and the time.")
        _write(path, summary.header(), chosen.lines())
    return summary


@dataclass
class _Choice:
    """The rows to export; they are read twice, once for the hash in the header."""

    connection: sqlite3.Connection
    newest_only: bool
    wanted: dict[str, str | None]

    def lines(self, summary: Summary | None = None) -> Iterator[str]:
        summary = summary or Summary()
        urls: dict[int, str] = dict(self.connection.execute("SELECT id, url FROM urls"))
        for row in self.connection.execute(_NEWEST_FACTS if self.newest_only else _FACTS, self.wanted):
            graph, kind, entity, fetched_at, url, value = row
            fact = {"graph": graph, "kind": kind, "id": entity, "fetched_at": fetched_at, "url": urls[url]}
            summary.facts += 1
            yield _noted(fact | {"type": "fact", "value": unpack(value)}, summary)
        for (record,) in self.connection.execute(_LOG, self.wanted):
            summary.queries += 1
            yield _noted(unpack(record) | {"type": "query"}, summary)

    def summary(self) -> Summary:
        summary, digest = Summary(), hashlib.sha256()
        for line in self.lines(summary):
            digest.update(line.encode())
        summary.sha256 = digest.hexdigest()
        return summary


def _noted(row: dict[str, object], summary: Summary) -> str:
    summary.created = max(summary.created, str(row["fetched_at"]))
    summary.graphs.add(str(row["graph"]))
    summary.urls.add(str(row["url"]))
    return dumps(row) + "\n"


def _write(path: Path, header: str, lines: Iterator[str]) -> None:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as raw:
                _zip(raw, header, lines)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        way_out = "Check its folder and the space on its disk, or give another name."
        raise CacheFileError(path, f"cannot be written ({error.strerror or error})", way_out) from error


def _zip(raw: IO[bytes], header: str, lines: Iterator[str]) -> None:
    # No name and no time in the gzip header, so that equal caches give equal files.
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        file.write(header.encode())
        for line in lines:
            file.write(line.encode())
