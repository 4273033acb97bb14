"""What a cache file holds of each id, in each version, and the log of the questions that brought it."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from wikidata_cache.answers.database import Database
from wikidata_cache.answers.modes import utc
from wikidata_cache.answers.pace_table import StoredPaceBook
from wikidata_cache.answers.values import dumps, pack, unpack
from wikidata_cache.release import release
from wikidata_cache.sources.facts import Exchange, Json
from wikidata_cache.sources.queries import LANGUAGES

# A bare column beside max() comes from the row with the maximum: the newest version.
_LOOK_UP = """
SELECT id, value, max(fetched_at) FROM facts
WHERE graph = ? AND kind = ? AND id IN (SELECT value FROM json_each(?)) AND fetched_at <= ? GROUP BY id"""
_ORIGIN = """
SELECT id, url, max(fetched_at) FROM facts
WHERE graph = ? AND kind = ? AND id IN (SELECT value FROM json_each(?)) AND fetched_at <= ? GROUP BY id"""
_LABELLED = """
SELECT DISTINCT id FROM facts
WHERE graph = ? AND kind = 'label' AND value IN (SELECT value FROM json_each(?)) AND fetched_at <= ?"""
_URLS = """
SELECT url FROM urls WHERE EXISTS (SELECT 1 FROM facts WHERE facts.graph = ? AND facts.url = urls.id) ORDER BY url"""
_ANY_TIME = "9999"  # later than every ISO time

Origin = tuple[str, str]  # the URL that said it, and when


class AnswerStore:
    """A cache file: facts by graph, kind and id in all their versions, the query log, and the hosts' paces.

    The file is made by the first write. Many processes may share it, and any of them may be killed at any
    time. `read_only` is for packs, which are never written. Its methods raise CacheFileError where the file
    is of another format, damaged, read-only or on a full disk. Use as a context manager, or `close` it.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.database = Database(self.path, read_only=read_only)
        self.paces = StoredPaceBook(self.database)

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self.database.close()

    def look_up(self, graph: str, kind: str, ids: Iterable[str], *, as_of: str | None = None) -> dict[str, Json]:
        """The newest values of those ids that are known; with `as_of`, what was the newest at that time."""
        rows = self.database.read(_LOOK_UP, (graph, kind, dumps(list(ids)), as_of or _ANY_TIME))
        return {entity: unpack(value) for entity, value, _ in rows}

    def origins(self, graph: str, kind: str, ids: Iterable[str], *, as_of: str | None = None) -> dict[str, Origin]:
        """The URL and the time (UTC) behind what `look_up` gives for each known id."""
        rows = self.database.read(_ORIGIN, (graph, kind, dumps(list(ids)), as_of or _ANY_TIME))
        urls = dict(self.database.read("SELECT id, url FROM urls")) if rows else {}
        return {entity: (urls[url], fetched_at) for entity, url, fetched_at in rows}

    def labelled(self, graph: str, label: str, *, as_of: str | None = None) -> list[str]:
        """The ids that have had exactly this label, in whatever version."""
        texts = dumps([pack([label, language]) for language in LANGUAGES])
        return [entity for (entity,) in self.database.read(_LABELLED, (graph, texts, as_of or _ANY_TIME))]

    def urls(self, graph: str) -> list[str]:
        """The URLs that have answered for a graph, sorted."""
        return [url for (url,) in self.database.read(_URLS, (graph,))]

    def keep(self, graph: str, template: str, facts: Iterable[Sequence[Json]], exchange: Exchange) -> None:
        """Write an answer's facts (kind, id, value) and its log entry in one transaction."""
        fetched_at = utc(exchange.fetched_at)
        record = log_record(graph, template, exchange)
        with self.database.writing() as connection:
            url = url_number(connection, exchange.url)
            insert_log(connection, record)
            rows = ((graph, kind, entity, fetched_at, url, pack(value)) for kind, entity, value in facts)
            connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?, ?, ?, ?, ?)", rows)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The right to ask an endpoint and write its answer, one process at a time. Needs a file to write to."""
        with self.database.alone("asking"):
            with self.database.writing():
                pass  # better to fail before the request than after it
            yield


def log_record(graph: str, template: str, exchange: Exchange) -> dict[str, Json]:
    """An exchange as the log keeps it: plain JSON values."""
    return {
        "graph": graph,
        "template": template,
        "url": exchange.url,
        "query": exchange.query,
        "fetched_at": utc(exchange.fetched_at),
        "elapsed_ms": exchange.elapsed_ms,
        "rows": exchange.rows,
        "sha256": exchange.sha256,
        "headers": dict(exchange.headers),
        "library": f"wikidata-cache {release()}",
    }


def insert_log(connection: sqlite3.Connection, record: dict[str, Json]) -> None:
    """Add an entry to the log, once."""
    text = dumps(record)
    row = hashlib.sha256(text.encode()).hexdigest(), record["graph"], record["fetched_at"], pack(record)
    connection.execute("INSERT OR IGNORE INTO queries VALUES (?, ?, ?, ?)", row)


def url_number(connection: sqlite3.Connection, url: str) -> int:
    """The number that stands for a URL in `facts`."""
    connection.execute("INSERT OR IGNORE INTO urls (url) VALUES (?)", (url,))
    [[number]] = connection.execute("SELECT id FROM urls WHERE url = ?", (url,)).fetchall()
    return int(number)
