"""Opening a cache file: for writing, which makes it, or for reading, which never changes it."""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from wikidata_cache.answers.sqlite_errors import ELSEWHERE
from wikidata_cache.errors import CacheFileError

logger = logging.getLogger(__name__)

APPLICATION = 0x6B676361  # SQLite's application_id of our files
FORMAT = 1
_WAIT = 60.0  # seconds for another process's transaction

# `facts` only ever grows: a refresh adds a row with a later fetched_at (UTC, ISO 8601, milliseconds).
_SCHEMA = f"""
CREATE TABLE urls (id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE);
CREATE TABLE queries (key TEXT PRIMARY KEY, graph TEXT NOT NULL, fetched_at TEXT NOT NULL, record NOT NULL);
CREATE TABLE facts (
    graph TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, fetched_at TEXT NOT NULL,
    url INTEGER NOT NULL REFERENCES urls, value NOT NULL,
    PRIMARY KEY (graph, kind, id, fetched_at)
) WITHOUT ROWID;
CREATE TABLE pace (host TEXT PRIMARY KEY, state TEXT NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
"""


def open_writer(path: Path) -> sqlite3.Connection:
    """A connection that may write, to a file that has its tables. Raises CacheFileError and SQLite's errors."""
    if path.exists() and not os.access(path, os.W_OK):  # SQLite would open it for reading, and say so later
        raise CacheFileError(path, "cannot be written", f"Make it writable, or {ELSEWHERE}.")
    connection = _connect(path, "rwc")
    try:
        if _is_new(connection, path):
            _set_journal(connection, path)
            connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    if path.is_dir():
        raise CacheFileError(
            path, "is a folder", "Give the name of a file in it, with --cache (cache=...) or KG_CACHE."
        )
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_WAIT, isolation_level=None, check_same_thread=False)


def open_reader(path: Path) -> sqlite3.Connection | None:
    """A connection for reading; None for a file without tables yet. Raises CacheFileError and SQLite's errors."""
    connection = _connect(path, "ro")
    try:
        new = _is_new(connection, path)
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # In a folder that cannot be written, SQLite lacks the file it shares with other readers.
        connection = _connect(path, "ro&immutable=1")
        new = _is_new(connection, path)
    except BaseException:
        connection.close()
        raise
    if new:
        connection.close()
        return None
    return connection


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether a file has no tables yet; CacheFileError where it has somebody else's, or another format."""
    application, version, tables = _header(connection)
    if (application, version) == (APPLICATION, FORMAT):
        return False
    if application == APPLICATION:
        way_out = f"Use the release that wrote it (export there, import here), or {ELSEWHERE}."
        raise CacheFileError(path, f"is a cache of format {version}; this release reads format {FORMAT}", way_out)
    if tables:
        raise CacheFileError(path, "is an SQLite file, but no cache", f"Check the path, or {ELSEWHERE}.")
    return True


def _header(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Application, format and number of tables, of one moment: another process may be making the file."""
    connection.execute("BEGIN")
    try:
        [[application]] = connection.execute("PRAGMA application_id").fetchall()
        [[version]] = connection.execute("PRAGMA user_version").fetchall()
        [[tables]] = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return application, version, tables


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    try:
        with closing(connection.execute("PRAGMA journal_mode = WAL")) as found:
            if found.fetchone()[0] == "wal":
                return
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_READONLY")):
            raise
    logger.warning("%s: this file system has no shared memory, so the cache uses a rollback journal (slower)", path)
    connection.execute("PRAGMA journal_mode = DELETE")
