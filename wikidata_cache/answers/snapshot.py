"""Snapshots: export a cache to one file to share it, and import such a file completely or not at all.

The format is gzipped JSON lines: a header (format, newest time, graphs, URLs, licence, counts, sha256 of all other
lines), then the facts, then the query log, each sorted. The same cache always gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from kg_common.atomic import check_out, replacing
from kg_common.json_text import parse
from wikidata_cache.answers.database import dumps, pack, unpack
from wikidata_cache.answers.store import ANY_TIME, NEWEST, AnswerStore, insert_log, url_number
from wikidata_cache.answers.validate import LOG_FIELDS, latest_time, row_problem
from wikidata_cache.endpoints.web import LIMIT_VARIABLE, read_answer_limit
from wikidata_cache.errors import BadOptionError, CacheFileError, SnapshotError

logger = logging.getLogger(__name__)

FORMAT = "wikidata-cache snapshot/1"
SAMPLE = "sample"  # the name of the packaged snapshot (data/sample.md) for `import`
LICENCE = "CC0 (Wikidata)"

_FACTS = """
SELECT graph, kind, id, fetched_at, url, value FROM facts
WHERE (:graph IS NULL OR graph = :graph) AND fetched_at <= :as_of ORDER BY graph, kind, id, fetched_at"""
# SQLite takes the other columns from the row with the max().
_NEWEST_FACTS = f"""
SELECT graph, kind, id, fetched_at, url, value, {NEWEST} FROM facts
WHERE (:graph IS NULL OR graph = :graph) AND fetched_at <= :as_of GROUP BY graph, kind, id ORDER BY graph, kind, id"""  # noqa: S608
_LOG = """
SELECT record FROM queries
WHERE (:graph IS NULL OR graph = :graph) AND fetched_at <= :as_of ORDER BY graph, fetched_at, key"""

OnConflict = Literal["keep", "newer", "error"]
"""What an import does with a fact that cache and snapshot both have.

- keep: the version of the cache is read.
- newer: the newer of the two versions is read.
- error: refuse the snapshot if the two values differ.
"""

_INCOMING = """
CREATE TEMP TABLE incoming (
    graph TEXT, kind TEXT, id TEXT, fetched_at TEXT, url INTEGER, value, PRIMARY KEY (graph, kind, id, fetched_at)
) WITHOUT ROWID"""
_SAME = "have.graph = incoming.graph AND have.kind = incoming.kind AND have.id = incoming.id"
_KEEP = f"SELECT * FROM incoming WHERE NOT EXISTS (SELECT 1 FROM facts AS have WHERE {_SAME})"  # noqa: S608
# Each fact of the snapshot: its id, its kind, its value there, a time, and the value that the cache reads for it.
# - The time is not used. SQLite takes the other columns from the row with the max(), which is the newest version.
# - `have` is the table of the cache's facts. The first term of ORDER BY is 1 for a row that is not from the future,
#   and 0 for others; DESC puts 1 first. Among these rows the newest one comes first, and LIMIT 1 takes it.
_BOTH = """
SELECT incoming.id, incoming.kind, incoming.value, max(incoming.fetched_at),
    (SELECT have.value FROM facts AS have WHERE have.graph = incoming.graph AND have.kind = incoming.kind
     AND have.id = incoming.id ORDER BY have.fetched_at <= :latest DESC, have.fetched_at DESC LIMIT 1)
FROM incoming GROUP BY incoming.graph, incoming.kind, incoming.id"""


def export_snapshot(
    store: AnswerStore,
    path: str | Path,
    *,
    newest_only: bool = False,
    as_of: str | None = None,
    graph_name: str | None = None,
) -> Summary:
    """Write the facts and the log of a cache to a snapshot file. The file is written atomically.

    Rows that an import would refuse are left out with a warning: the clock may have been wrong when they were fetched.

    Args:
        store: the cache.
        path: the snapshot file; its name ends in .gz.
        newest_only: export only the newest version of each fact, instead of all versions.
        as_of: leave out later rows (a time as `utc` writes it).
        graph_name: leave out other graphs.

    Returns:
        The header of the file.
    """
    path = Path(path)
    check_out(path, ".gz", inputs=[store.path])  # a cache that is named by mistake must not be overwritten
    with store.database.reading() as connection:
        if connection is None:
            raise CacheFileError(store.path, "there is no cache file", "Check --cache (cache=...) and KG_CACHE.")
        # The parameters of the queries at the top of this file; `NEWEST` needs "latest".
        filters = {"graph": graph_name, "as_of": as_of or ANY_TIME, "latest": latest_time()}
        # The rows are read twice in one transaction: for the counts and the hash in the header, then for the file.
        rows = _read_rows(connection, store.path, filters, newest_only=newest_only)
        summary = _summarize(rows)
        if not summary.facts:
            suggestion = "Check the graph's name and the time, if given."
            raise CacheFileError(store.path, "contains no facts to export", suggestion)
        rows = _read_rows(connection, store.path, filters, newest_only=newest_only)
        valid_lines = (_row_line(row) for row in rows if row_problem(row) is None)
        _write_snapshot(path, summary.header().encode(), valid_lines)
    if summary.left_out:
        logger.warning(
            "%s: invalid rows left out: %d (the first: %s). `wikidata-cache fetch --mode refresh` fetches them again.",
            path,
            len(summary.left_out),
            summary.left_out[0],
        )
    return summary


def _write_snapshot(path: Path, header: bytes, lines: Iterable[bytes]) -> None:
    try:
        # No file name and no time in the gzip header, so that equal caches give equal files.
        with (
            replacing(path) as scratch,
            scratch.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file,
        ):
            file.write(header)
            file.writelines(lines)
    except OSError as error:
        suggestion = "Check its folder and the space on its disk, or give another name."
        raise CacheFileError(path, f"cannot be written ({error.strerror or error})", suggestion) from error


@dataclass
class Summary:
    """The contents of a snapshot, as its header states them: `sha256` is the hash of all lines after the header."""

    created: str = ""  # the newest fetched_at of all rows
    graphs: set[str] = field(default_factory=set)
    urls: set[str] = field(default_factory=set)
    facts: int = 0
    queries: int = 0
    sha256: str = ""
    left_out: list[str] = field(default_factory=list)  # the problem of each row that was not exported

    def header(self) -> str:
        """Return the first line of the file: canonical JSON, with a line end."""
        header = {
            "format": FORMAT,
            "created": self.created,
            "graphs": sorted(self.graphs),
            "urls": sorted(self.urls),
            "licence": LICENCE,
            "counts": {"facts": self.facts, "queries": self.queries},
            "sha256": self.sha256,
        }
        return dumps(header) + "\n"


def _summarize(rows: Iterable[Mapping[str, Any]]) -> Summary:
    """Count the rows that an import accepts, and hash their lines; list the problems of the other rows."""
    summary = Summary()
    digest = hashlib.sha256()
    for row in rows:
        problem = row_problem(row)
        if problem:
            summary.left_out.append(problem)
            continue
        if row["type"] == "fact":
            summary.facts += 1
        else:
            summary.queries += 1
        summary.created = max(summary.created, str(row["fetched_at"]))
        summary.graphs.add(str(row["graph"]))
        summary.urls.add(str(row["url"]))
        digest.update(_row_line(row))
    summary.sha256 = digest.hexdigest()
    return summary


def _row_line(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of the file: canonical JSON, with a line end."""
    return (dumps(row) + "\n").encode()


def _read_rows(
    connection: sqlite3.Connection, cache: Path, filters: Mapping[str, str | None], *, newest_only: bool
) -> Iterator[dict[str, Any]]:
    """Yield the facts, then the entries of the query log, as JSON objects."""
    urls: dict[int, str] = dict(connection.execute("SELECT id, url FROM urls"))
    query = _FACTS
    if newest_only:
        query = _NEWEST_FACTS
    for row in connection.execute(query, filters):
        graph, kind, entity, fetched_at, url, value = row[:6]  # the newest facts have a seventh column
        yield {
            "type": "fact",
            "graph": graph,
            "kind": kind,
            "id": entity,
            "fetched_at": fetched_at,
            "url": urls[url],
            "value": unpack(value, cache),
        }
    for (record,) in connection.execute(_LOG, filters):
        yield unpack(record, cache) | {"type": "query"}


def import_snapshot(store: AnswerStore, path: str | Path, *, on_conflict: OnConflict = "keep") -> Imported:
    """Add the rows of a snapshot to a cache in one transaction. Importing the same file again changes nothing.

    Args:
        store: the cache.
        path: the snapshot file, or `SAMPLE`; a file of this name comes first.
        on_conflict: what to do with a fact that both have (`OnConflict`).

    Returns:
        The numbers of rows.
    """
    if on_conflict not in get_args(OnConflict):
        raise BadOptionError(f"on_conflict={on_conflict!r}: expected one of {', '.join(get_args(OnConflict))}.")
    path = Path(path)
    if str(path) == SAMPLE and not path.exists():
        path = Path(__file__).parents[1] / "data" / "sample.jsonl.gz"
    header = _read_header(path)
    if not store.path.exists():  # checked first, so that a wrong file does not leave an empty cache
        for _ in _check_rows(path, header):
            pass
    with store.database.writing() as connection:
        # The facts go to a temporary table first: the file is checked to its end before the cached facts change.
        # The log and the URLs change at once, and the transaction undoes that if the file is wrong.
        connection.execute(_INCOMING)
        for row in _check_rows(path, header):
            _insert_row(connection, row)
        if on_conflict == "error":
            _refuse_conflicts(connection, store.path, path)
        # All versions of a fact are added, and reads take the newest one; with "keep", none of a fact that is cached.
        chosen = "SELECT * FROM incoming"
        if on_conflict == "keep":
            chosen = _KEEP
        new = connection.execute(f"INSERT OR IGNORE INTO facts {chosen}").rowcount
        connection.execute("DROP TABLE temp.incoming")
    return Imported(facts=header.facts, queries=header.queries, new=new)


def _insert_row(connection: sqlite3.Connection, row: Mapping[str, Any]) -> None:
    """Add a row of a snapshot to the query log, or to the temporary table of facts."""
    if row["type"] == "query":
        insert_log(connection, {name: row[name] for name in LOG_FIELDS})
        return
    url = url_number(connection, row["url"])
    values = (row["graph"], row["kind"], row["id"], row["fetched_at"], url, pack(row["value"]))
    connection.execute("INSERT OR IGNORE INTO temp.incoming VALUES (?, ?, ?, ?, ?, ?)", values)


def _refuse_conflicts(connection: sqlite3.Connection, cache: Path, path: Path) -> None:
    """Raise SnapshotError if cache and snapshot have different values of a fact."""
    for entity, kind, value, _, cached in connection.execute(_BOTH, {"latest": latest_time()}):
        if cached is not None and unpack(cached, cache) != unpack(value, cache):
            raise SnapshotError(path, f"contradicts the cache about {entity} (kind {kind})")


@dataclass(frozen=True)
class Imported:
    """The numbers of facts and of log entries in a snapshot, and the number of facts that were new to the cache."""

    facts: int
    queries: int
    new: int


class _Header(NamedTuple):
    """What a header promises of the rows: their numbers by type, and the sha256 of their lines."""

    facts: int
    queries: int
    sha256: object  # a text, if the file is sound


def _read_header(path: Path) -> _Header:
    """Return the header of a snapshot, after checking its format."""
    with _read_errors(path), gzip.open(path) as file:
        header = _parse_object(path, _read_line(path, file, 1), 1)
    if header.get("format") != FORMAT:
        problem = f"has the format {header.get('format')!r}; this release reads {FORMAT!r}"
        raise SnapshotError(path, problem, line=1)
    counts = header.get("counts")
    if isinstance(counts, dict):
        facts = counts.get("facts")
        queries = counts.get("queries")
        if type(facts) is int and type(queries) is int:  # type, since True is an int too
            return _Header(facts, queries, header.get("sha256"))
    problem = "its header does not give the numbers of facts and queries; get the file again"
    raise SnapshotError(path, problem, line=1)


def _check_rows(path: Path, header: _Header) -> Iterator[dict[str, Any]]:
    """Yield every row of a snapshot, each checked; at the end, compare the hash and the counts with the header."""
    with _read_errors(path), gzip.open(path) as file:
        _read_line(path, file, 1)  # the header
        counts = {"fact": 0, "query": 0}
        digest = hashlib.sha256()
        number = 2
        while line := _read_line(path, file, number):
            digest.update(line)
            row = _parse_row(path, line, number)
            counts[row["type"]] += 1
            if counts["fact"] > header.facts or counts["query"] > header.queries:
                problem = f"has more rows than the {header.facts + header.queries} that its header gives"
                raise SnapshotError(path, problem, line=number)
            yield row
            number += 1
        is_complete = counts == {"fact": header.facts, "query": header.queries}
        if not is_complete or digest.hexdigest() != header.sha256:
            problem = "its rows do not match the counts and the sha256 in its header. Get the file again"
            raise SnapshotError(path, problem)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system and of gzip inside the block into SnapshotError."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        advice = f"check the path, or give {SAMPLE!r} for the packaged one"
        raise SnapshotError(path, f"can't be read: {error.strerror}; {advice}") from error
    except (OSError, EOFError, zlib.error) as error:
        problem = f"cannot be read to its end ({error}). It is cut off, damaged or not a .jsonl.gz file"
        raise SnapshotError(path, f"{problem}; get the file again") from error


def _parse_row(path: Path, line: bytes, number: int) -> dict[str, Any]:
    """Return a row of the type "fact" or "query", after checking it."""
    row = _parse_object(path, line, number)
    if row.get("type") not in ("fact", "query"):
        found = f"found a row of the type {row.get('type')!r}"
        raise SnapshotError(path, f"{found}; expected 'fact' or 'query'", line=number)
    problem = row_problem(row)
    if problem:
        raise SnapshotError(path, problem, line=number)
    return row


def _read_line(path: Path, file: gzip.GzipFile, number: int) -> bytes:
    longest = read_answer_limit()
    line = file.readline(longest + 1)
    if len(line) > longest:
        problem = f"has a line of more than {longest / 1e6:g} MB, the limit that {LIMIT_VARIABLE} sets"
        raise SnapshotError(path, problem, line=number)
    return line


def _parse_object(path: Path, line: bytes, number: int) -> dict[str, Any]:
    try:
        row = parse(line)
    except ValueError as error:
        raise SnapshotError(path, f"is not JSON ({error})", line=number) from error
    if not isinstance(row, dict):
        raise SnapshotError(path, f"found {type(row).__name__}; expected an object {{...}}", line=number)
    return row
