"""Read and write the contents of a cache file: facts in all their versions, the query log, and hosts' rate limits.

`AnswerStore` reads and writes one file, or only reads a pack (`open_pack`); `database.py` has the tables and the
transactions. `take_inventory` checks and counts a file without changing it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote

from wikidata_cache.answers.database import DAMAGED_ADVICE, Database, cache_file_errors, dumps, pack, unpack
from wikidata_cache.answers.modes import utc
from wikidata_cache.answers.validate import latest_time, log_entry_problem
from wikidata_cache.endpoints.rate_limit import RateLimitState, RateLimitStore
from wikidata_cache.errors import CacheFileError
from wikidata_cache.languages import DEFAULT_LANGUAGES
from wikidata_cache.sources.schema import value_problem
from wikidata_cache.sources.source import Exchange, Json, batches
from wikidata_cache.version import release

# The time of the newest version. In a query with one max(), SQLite takes the other columns from the row that has the
# maximum, so a query with NEWEST and GROUP BY id returns the newest version of each id. A version from the future, one
# fetched while the clock was wrong, gets a 0 before its time: it counts as the oldest, and a refresh replaces it.
NEWEST = "max(iif(fetched_at <= :latest, fetched_at, '0' || fetched_at))"
_WHERE_IDS = """
WHERE graph = :graph AND kind = :kind AND id IN (SELECT value FROM json_each(:ids)) AND fetched_at <= :as_of
GROUP BY id"""
_SELECT_VALUES = f"SELECT id, value, {NEWEST} FROM facts {_WHERE_IDS}"  # noqa: S608
_SELECT_ORIGINS = f"SELECT id, url, fetched_at, {NEWEST} FROM facts {_WHERE_IDS}"  # noqa: S608

# The next two queries find ids by their label, which is stored as a fact of one of two kinds:
#     kind        id         value
#     label       Q64        ["Berlin","en"]                              in a default language (`DEFAULT_LANGUAGES`)
#     label_in    Q956 zh    [["zh-hans","北京"],["zh-tw","北京市"]]      in another family of languages
# Any version counts here, also an older one than the newest.

# Whole values are compared. They are appended to the query as "(?, ?, ...)".
_SELECT_LABELLED = "SELECT DISTINCT id FROM facts WHERE graph = ? AND kind = 'label' AND fetched_at <= ? AND value IN "
_MOST_VALUES = 5_000  # values in one such query, which reads all labels
# The label is one of several texts in a value, so it is searched in the value's JSON text, as a JSON string: '"北京"'.
# A compressed value cannot be searched, so it always counts.
_SELECT_WITH_TEXT = """
SELECT DISTINCT id FROM facts WHERE graph = ? AND kind = 'label_in' AND fetched_at <= ?
AND (instr(value, ?) OR typeof(value) = 'blob')"""

_SELECT_IDS = "SELECT DISTINCT id FROM facts WHERE graph = ? AND kind = ? ORDER BY id"
_SELECT_URLS = """
SELECT url FROM urls WHERE EXISTS (SELECT 1 FROM facts WHERE facts.graph = ? AND facts.url = urls.id) ORDER BY url"""
ANY_TIME = "9999"  # as text, later than every ISO time

Origin = tuple[str, str]  # the URL that answered, and the time of the answer

_GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
_LARGEST = 1e11  # no time in seconds and no count of a rate limit is larger


class AnswerStore:
    """A cache file: facts by graph, kind and id in all their versions, the query log, and the hosts' rate limits.

    The first write creates the file. Many processes may share it, and each of them may be killed at any time.
    `read_only` is for packs, which are never written. The methods raise CacheFileError where the file has another
    format, is damaged or read-only, or the disk is full. Use the object as a context manager, or call `close`.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.database = Database(self.path, read_only=read_only)
        self.rate_limits = CacheRateLimitStore(self.database)

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        self.database.close()

    def look_up(self, graph: str, kind: str, ids: Iterable[str], *, as_of: str | None = None) -> dict[str, Json]:
        """Return {id: value} of the known ids, in the newest version, or in the newest up to `as_of` (UTC text)."""
        rows = self.database.read(_SELECT_VALUES, _sql_parameters(graph, kind, ids, as_of))
        values = {entity: unpack(value, self.path) for entity, value, _ in rows}
        if self.database.read_only:  # a pack may come from somebody else: check it as `save` checks answers
            for entity, value in values.items():
                problem = value_problem(kind, entity, value)
                if problem:
                    suggestion = "Do not use this pack (--pack, packs=..., KG_PACKS)."
                    raise CacheFileError(self.path, f"contains an invalid fact: {problem}", suggestion)
        return values

    def find_origins(self, graph: str, kind: str, ids: Iterable[str], *, as_of: str | None = None) -> dict[str, Origin]:
        """Return {id: (URL, time in UTC)} of the answers that `look_up` returns."""
        rows = self.database.read(_SELECT_ORIGINS, _sql_parameters(graph, kind, ids, as_of))
        if not rows:
            return {}
        urls = dict(self.database.read("SELECT id, url FROM urls"))
        return {entity: (urls[number], fetched_at) for entity, number, fetched_at, _ in rows}

    def find_labelled(self, graph: str, labels: Iterable[str], *, as_of: str | None = None) -> set[str]:
        """Return the ids whose label in a default language is, to the letter, one of these.

        Any version up to `as_of` counts.
        """
        # Whole values are compared as they are stored, such as '["Berlin","en"]', so that no row has to be unpacked.
        stored: list[str | bytes] = []
        for label in labels:
            stored += [pack([label, language]) for language in DEFAULT_LANGUAGES]
        ids: set[str] = set()
        for batch in batches(stored, size=_MOST_VALUES):
            placeholders = f"({', '.join('?' * len(batch))})"
            rows = self.database.read(_SELECT_LABELLED + placeholders, (graph, as_of or ANY_TIME, *batch))
            ids.update(entity for (entity,) in rows)
        return ids

    def find_with_text(self, graph: str, text: str, *, as_of: str | None = None) -> set[str]:
        """Return the ids that may have this label in another language than English, in any version.

        The caller has to look the label up for each of them.
        """
        rows = self.database.read(_SELECT_WITH_TEXT, (graph, as_of or ANY_TIME, dumps(text)))
        # The key of such a fact has the id and the family of languages: "Q64 zh".
        return {key.partition(" ")[0] for (key,) in rows}

    def list_ids(self, graph: str, kind: str) -> list[str]:
        """Return the ids that have a fact of this kind, sorted."""
        return [entity for (entity,) in self.database.read(_SELECT_IDS, (graph, kind))]

    def list_urls(self, graph: str) -> list[str]:
        """Return the URLs that have answered for a graph, sorted."""
        return [url for (url,) in self.database.read(_SELECT_URLS, (graph,))]

    def save(self, graph: str, template: str, facts: Iterable[Sequence[Json]], exchange: Exchange) -> None:
        """Write the facts of an answer and its log entry in one transaction.

        Args:
            graph: the name of the graph.
            template: the name of the question.
            facts: (kind, id, value) of each fact.
            exchange: the request and its answer.
        """
        fetched_at = utc(exchange.fetched_at)
        record: dict[str, Json] = {  # the fields of `validate.LOG_FIELDS`
            "graph": graph,
            "template": template,
            "url": exchange.url,
            "query": exchange.query,
            "fetched_at": fetched_at,
            "elapsed_ms": exchange.elapsed_ms,
            "rows": exchange.rows,
            "sha256": exchange.sha256,
            "headers": dict(exchange.headers),
            "library": f"wikidata-cache {release()}",
        }
        facts = list(facts)
        problem = _find_problem(facts, record)
        if problem:
            suggestion = "Check the endpoint, and this machine's clock."
            raise CacheFileError(self.path, f"an answer of {exchange.url} was not saved: {problem}", suggestion)
        with self.database.writing() as connection:
            url = url_number(connection, exchange.url)
            insert_log(connection, record)
            rows = [(graph, kind, entity, fetched_at, url, pack(value)) for kind, entity, value in facts]
            connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?, ?, ?, ?, ?)", rows)

    def find_span(self) -> tuple[int, str | None, str | None]:
        """Return the number of stored facts, and the times of the oldest and of the newest one (UTC text)."""
        rows = self.database.read("SELECT count(*), min(fetched_at), max(fetched_at) FROM facts")
        if not rows:  # there is no file yet
            return 0, None, None
        [(count, oldest, newest)] = rows
        return int(count), oldest, newest

    def forget(self, *, before: str | None = None) -> int:
        """Delete the facts and log entries fetched before a time (UTC text), else all; return the number of facts.

        Other processes may use the file meanwhile; the space is given back to the disk.
        """
        before = before or ANY_TIME
        with self.database.writing() as connection:
            count = connection.execute("DELETE FROM facts WHERE fetched_at < ?", (before,)).rowcount
            connection.execute("DELETE FROM queries WHERE fetched_at < ?", (before,))
            connection.execute("DELETE FROM urls WHERE id NOT IN (SELECT url FROM facts)")
        self.database.compact()
        return count

    @contextmanager
    def request_lock(self) -> Iterator[None]:
        """Hold the lock that lets one process at a time ask an endpoint and save its answer; create the file first."""
        # Politeness: one request at a time, over all processes that share the file.
        with self.database.exclusive("asking"):
            with self.database.writing():
                pass  # a file that cannot be written fails here, before the request is sent
            yield


def _find_problem(facts: Sequence[Sequence[Json]], record: dict[str, Json]) -> str | None:
    """Return what is wrong with the log entry or the facts of an answer; None if they can be saved."""
    problem = log_entry_problem(record | {"type": "query"})  # a log entry in a snapshot has its type as well
    if problem:
        return problem
    for kind, entity, value in facts:
        problem = value_problem(kind, entity, value)
        if problem:
            return problem
    return None


def _sql_parameters(graph: str, kind: str, ids: Iterable[str], as_of: str | None) -> dict[str, str]:
    """Return the SQL parameters of `_SELECT_VALUES` and `_SELECT_ORIGINS`."""
    return {
        "graph": graph,
        "kind": kind,
        "ids": dumps(list(ids)),
        "as_of": as_of or ANY_TIME,
        "latest": latest_time(),
    }


def insert_log(connection: sqlite3.Connection, record: dict[str, Json]) -> None:
    """Add an entry to the query log, unless an equal one is there."""
    text = dumps(record)
    row = hashlib.sha256(text.encode()).hexdigest(), record["graph"], record["fetched_at"], pack(record)
    connection.execute("INSERT OR IGNORE INTO queries VALUES (?, ?, ?, ?)", row)


def url_number(connection: sqlite3.Connection, url: str) -> int:
    """Return the row id of a URL in the table `urls`, to which `facts` refers; add the URL if it is new."""
    connection.execute("INSERT OR IGNORE INTO urls (url) VALUES (?)", (url,))
    [[number]] = connection.execute("SELECT id FROM urls WHERE url = ?", (url,)).fetchall()
    return int(number)


def open_pack(path: str | Path) -> AnswerStore:
    """Open a pack (a cache file that somebody else made) read-only, and check its format."""
    path = Path(path)
    if not path.exists():
        raise CacheFileError(path, "there is no such pack", "Check --pack (packs=...) and KG_PACKS.")
    with cache_file_errors(path, reading=True), path.open("rb") as file:
        start = file.read(2)
    if start == _GZIP or path.name.endswith((".jsonl", ".jsonl.gz")):
        target = path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".sqlite")
        suggestion = f"Make a cache file from it: wikidata-cache import {quote(str(path))} --cache {quote(str(target))}"
        raise CacheFileError(path, "is a snapshot, not a cache file", suggestion)
    store = AnswerStore(path, read_only=True)
    # The first read opens the file, and raises if it has another format: now, and not in the middle of a run.
    rows = store.database.read("SELECT 1")
    if not rows:  # the file has no tables
        raise CacheFileError(path, "is empty", "Get the pack again, or leave it out (--pack, packs=..., KG_PACKS).")
    return store


class CacheRateLimitStore(RateLimitStore):
    """A `RateLimitStore` in a cache file; all processes that use the file share it. Methods raise CacheFileError.

    The table ``pace`` has a row for each host: its name, and its `RateLimitState` as JSON.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, host: str) -> RateLimitState:
        """Return the state of a host (name and port); `RateLimitState()` for a host that was never asked."""
        rows = self._database.read("SELECT state FROM pace WHERE host = ?", (host,))
        if not rows:
            return RateLimitState()
        [[state]] = rows
        return _parse_rate_limit(state, self._database.path)

    def write(self, host: str, state: RateLimitState) -> None:
        """Write the state of a host; it replaces the older state."""
        if state == self.read(host):
            return  # usually so for a host without a known limit
        with self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO pace VALUES (?, ?)", (host, dumps(asdict(state))))

    def lock(self, host: str) -> AbstractContextManager[object]:
        """Return a lock on the host: while it is held, no other process with this cache sends the host a request."""
        return self._database.exclusive(f"host {host}")


def _parse_rate_limit(stored: str | bytes, path: Path) -> RateLimitState:
    """Return the state of a host that `write` stored; raise CacheFileError for anything else in a foreign file."""
    state = unpack(stored, path)
    if not _is_rate_limit(state):
        raise CacheFileError(path, "is damaged: the rate limit of a host cannot be read", DAMAGED_ADVICE)
    return RateLimitState(**state)


def _is_rate_limit(state: Json) -> bool:
    """Return whether a stored value has exactly the fields of `RateLimitState`, with sound numbers and texts."""
    if not isinstance(state, dict) or state.keys() != asdict(RateLimitState()).keys():
        return False
    for name, value in state.items():
        if name in ("trouble", "reason"):
            is_sound = isinstance(value, str)
        elif name == "rate" and value is None:  # the usual rate
            is_sound = True
        else:
            is_sound = type(value) in (int, float) and abs(value) < _LARGEST  # type, since True is an int too
        if not is_sound:
            return False
    return True


@dataclass(frozen=True)
class Inventory:
    """Counts of a cache file: facts by (graph, kind), logged requests, first and last time (UTC), states of hosts."""

    facts: dict[tuple[str, str], int]
    requests: int
    span: tuple[str, str] | None
    hosts: dict[str, RateLimitState]


def take_inventory(path: Path) -> Inventory | None:
    """Check a cache file and count its contents without changing it; return None where there is no file yet."""
    if not path.exists():
        return None
    with AnswerStore(path, read_only=True) as store:
        database = store.database
        checks = database.read("PRAGMA integrity_check(1)")  # [] if the file has no tables yet, as all reads below
        for (found,) in checks:
            if found != "ok":
                raise CacheFileError(path, f"is damaged ({found.splitlines()[-1]})", DAMAGED_ADVICE)

        facts = {}
        counts = database.read("SELECT graph, kind, count(*) FROM facts GROUP BY graph, kind ORDER BY graph, kind")
        for graph, kind, count in counts:
            facts[graph, kind] = count
        span = None
        _, first, last = store.find_span()
        if first and last:
            span = (first, last)
        requests = 0
        rows = database.read("SELECT count(*) FROM queries")
        if rows:
            [[requests]] = rows
        hosts = {}
        for host, state in database.read("SELECT host, state FROM pace ORDER BY host"):
            hosts[host] = _parse_rate_limit(state, path)
        return Inventory(facts, requests, span, hosts)
