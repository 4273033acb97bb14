"""The SQLite file of a cache: its tables, one connection per process, transactions, locks and error messages.

`Database` opens the file at its first use, with a write-ahead log, or a rollback journal where the file system has no
shared memory. A process may be killed at any time without damage. The table `facts` has all versions of every fact,
`queries` the log of requests, and `pace` the rate limits of hosts. Values are JSON, zlib-compressed where that saves
space (`pack`).

After the class come the functions that open a connection (`_open_writer`, `_open_reader`), the one that turns errors of
SQLite into CacheFileError (`cache_file_errors`), and `pack` and `unpack`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple
from urllib.parse import quote

from filelock import FileLock, Timeout

from kg_common.json_text import parse
from wikidata_cache.endpoints.web import LIMIT_VARIABLE, read_answer_limit
from wikidata_cache.errors import CacheFileError

logger = logging.getLogger(__name__)

ELSEWHERE = "give another file with --cache FILE (cache=...) or KG_CACHE"

DAMAGED_ADVICE = "Delete the file; then fetch again, or import a snapshot (`wikidata-cache import`)."

# {first part of SQLite's error name: (problem, suggestion)}
_MEANINGS = {
    "SQLITE_FULL": ("no space left to write", f"The saved answers are safe. Free some space, or {ELSEWHERE}."),
    "SQLITE_READONLY": ("cannot be written", f"Make the file and its folder writable, or {ELSEWHERE}."),
    "SQLITE_CANTOPEN": ("cannot be opened", f"Check that its folder exists and is writable, or {ELSEWHERE}."),
    "SQLITE_PERM": ("cannot be opened", f"Check its permissions, or {ELSEWHERE}."),
    "SQLITE_NOTADB": ("is not a cache file", f"Check the path, or {ELSEWHERE}."),
    "SQLITE_CORRUPT": ("is damaged", DAMAGED_ADVICE),
    "SQLITE_BUSY": (
        "has been locked by another program for more than a minute",
        f"Close that program, or {ELSEWHERE}.",
    ),
    "SQLITE_TOOBIG": ("has an answer that is larger than the limit", f"Raise the limit, which {LIMIT_VARIABLE} sets."),
    "SQLITE_IOERR": ("cannot be read or written", f"Free some space and check the disk, or {ELSEWHERE}."),
}

_UNREADABLE = ("cannot be read", f"Check its permissions and those of its folder, or {ELSEWHERE}.")

APPLICATION = 0x6B676361  # SQLite's application_id of our files
VERSION = 1
_WAIT = 60.0  # seconds to wait for the transaction of another process

# Rows of `facts` are never changed: a refresh adds a row with a later fetched_at (UTC, ISO 8601, milliseconds).
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
PRAGMA user_version = {VERSION};
"""

_LONG_WAIT = 5.0  # seconds; a longer wait for a lock is logged

_SHORTEST_LIMIT = 10_000_000  # bytes; SQLite's length limit also applies to the lists of ids in our own queries

_SHORT_TEXT = 300  # characters; zlib does not make shorter texts smaller


class Database:
    """Access to a cache file. The first `writing` creates the file; reading never does. Methods raise CacheFileError.

    A forked child opens its own connection, because a SQLite connection must not be used after a fork. Objects can be
    pickled.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path.absolute()  # the program may change its working folder
        self.read_only = read_only
        self._lock = RLock()
        self._open: _OpenConnection | None = None
        self._written: os.stat_result | None = None  # which file is open for writing, as `_check_file` compares it
        # The parent's connections, in a forked child. They stay open: closing them would drop the parent's file locks.
        self._inherited: list[sqlite3.Connection] = []

    def __reduce__(self) -> tuple[object, ...]:
        # For pickle: a copy opens the file itself, since neither locks nor connections can be copied.
        return partial(Database, read_only=self.read_only), (self.path,)

    def read(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Return all rows of a query; [] where there is no file yet."""
        with self._lock, cache_file_errors(self.path, reading=True):
            connection = self._connect_reader()
            if connection is None:
                return []
            return connection.execute(sql, parameters).fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Open a read transaction, in which all queries see the same state; yield None where there is no file yet.

        Inside another transaction of this thread, it is part of that one.
        """
        with self._lock, cache_file_errors(self.path, reading=True):
            connection = self._connect_reader()
            if connection is None or connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction: everything that the block writes is saved, or nothing."""
        with self._lock, cache_file_errors(self.path):
            connection = self._connect_writer()
            connection.execute("BEGIN IMMEDIATE")  # the write lock now: a later upgrade could fail with SQLITE_BUSY
            try:
                yield connection
                self._check_file()
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk."""
        with self._lock, cache_file_errors(self.path):
            connection = self._connect_writer()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def exclusive(self, purpose: str) -> Iterator[None]:
        """Hold the file's lock for `purpose` across all processes; the lock ends with the block, or with the process.

        Lock files are in a folder next to the cache file and are never removed: if one were removed while another
        process is about to open it, two processes could hold the lock.
        """
        with cache_file_errors(self.path):
            folder = self._make_lock_folder()
            name = re.sub(r"[^\w.-]", "_", purpose)  # characters that every file system allows
            lock = FileLock(folder / f"{name}.lock", poll_interval=0.01)
            try:
                lock.acquire(timeout=_LONG_WAIT)
            except Timeout:
                logger.info("%s: waiting for another process to finish its request", lock.lock_file)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _make_lock_folder(self) -> Path:
        folder = self.path.with_name(f"{self.path.name}.locks")
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # as writable as the cache's own folder; some file systems have no permissions
                shutil.copymode(self.path.parent, folder)
        return folder

    def _check_file(self) -> None:
        """Raise CacheFileError if the file was deleted or replaced, because everything written to it would be lost."""
        try:
            is_same = self._written is not None and os.path.samestat(self._written, self.path.stat())
        except OSError:
            is_same = False
        if not is_same:
            problem = "was deleted or replaced while it was in use; answers saved since then are lost"
            raise CacheFileError(self.path, problem, "Run the same command again.")

    def close(self) -> None:
        """Close the connection; the next use opens the file again."""
        with self._lock:
            self._put_inherited_aside()  # a parent's connection stays open
            if self._open is not None:
                self._open.connection.close()
            self._open = None

    def _connect_reader(self) -> sqlite3.Connection | None:
        """Return a connection that can read: the open one, or a new one; None where there is no file yet."""
        self._put_inherited_aside()
        if self._open is not None:
            return self._open.connection
        if not self.path.exists():
            return None
        connection = _open_reader(self.path)
        self._written = None  # only a connection that writes has it
        if connection is not None:
            self._open = _OpenConnection(os.getpid(), may_write=False, connection=connection)
        return connection

    def _connect_writer(self) -> sqlite3.Connection:
        """Return a connection that can write: the open one, or a new one, which replaces an open one that can't."""
        self._put_inherited_aside()
        if self._open is not None and self._open.may_write:
            return self._open.connection
        if self.read_only:
            raise CacheFileError(self.path, "was opened for reading only", f"To cache answers, {ELSEWHERE}.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.exclusive("making"):  # two processes must not create the tables at the same time
            connection = _open_writer(self.path)
        self.close()
        self._written = self.path.stat()
        self._open = _OpenConnection(os.getpid(), may_write=True, connection=connection)
        return connection

    def _put_inherited_aside(self) -> None:
        """Forget the open connection, without closing it, if this process is a fork of the one that opened it."""
        if self._open is not None and self._open.process != os.getpid():
            self._inherited.append(self._open.connection)
            self._open = None


class _OpenConnection(NamedTuple):
    """A connection, the id of the process that opened it, and whether it can write."""

    process: int
    may_write: bool
    connection: sqlite3.Connection


def _open_writer(path: Path) -> sqlite3.Connection:
    """Open a connection for writing; create file and tables if needed."""
    if path.exists() and not os.access(path, os.W_OK):  # SQLite opens it read-only, and fails only at the first write
        raise CacheFileError(path, "cannot be written", f"Make it writable, or {ELSEWHERE}.")
    connection = _connect(path, "rwc")
    try:
        if not _check_tables(connection, path):
            _set_journal(connection, path)
            connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _open_reader(path: Path) -> sqlite3.Connection | None:
    """Open a connection for reading; None if the file has no tables yet."""
    try:
        return _open_with_mode(path, "ro")
    except sqlite3.OperationalError as error:
        mode = _find_other_mode(path, error)
    return _open_with_mode(path, mode)


def _open_with_mode(path: Path, mode: str) -> sqlite3.Connection | None:
    """Open a connection in a mode of `_connect`, and check its tables; None if the file has none yet."""
    connection = _connect(path, mode)
    try:
        has_tables = _check_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    if not has_tables:
        connection.close()
        return None
    return connection


def _find_other_mode(path: Path, error: sqlite3.OperationalError) -> str:
    """Return the mode in which a file can be read that the mode "ro" could not read; raise the error if there is none.

    another process writes, or FILE-wal exists   the error is raised
    FILE-journal exists                          "ro", once the change that a kill cut off is taken back here
    neither, as in a read-only folder            "ro&immutable=1"

    Args:
        path: the file.
        error: why it could not be read.
    """
    if error.sqlite_errorname.startswith("SQLITE_BUSY") or path.with_name(f"{path.name}-wal").exists():
        raise error
    if path.with_name(f"{path.name}-journal").exists():
        # The journal of a change that a kill cut off. Only a connection that may write can take the change back.
        with closing(_connect(path, "rw")) as writer:
            _read_format(writer)  # any read does it
        return "ro"
    # In a read-only folder, SQLite cannot create the shared-memory file for readers; "immutable" does without it.
    return "ro&immutable=1"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a connection; `mode` is that of SQLite's URIs: "ro", "ro&immutable=1", "rw", or "rwc" (creates the file)."""
    if path.is_dir():
        raise CacheFileError(
            path, "is a folder", "Give the name of a file in it, with --cache (cache=...) or KG_CACHE."
        )
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"  # a name on disk may be any bytes
    connection = sqlite3.connect(uri, uri=True, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(_SHORTEST_LIMIT, read_answer_limit()))
    connection.execute("PRAGMA trusted_schema = OFF")  # no functions with side effects in views of a foreign file
    return connection


def _check_tables(connection: sqlite3.Connection, path: Path) -> bool:
    """Check that a file has the tables of a cache, and return True; return False for a new file, which has none.

    Raises CacheFileError for tables of another program or version.
    """
    application, version, statements = _read_format(connection)
    if application != APPLICATION:
        if statements:
            raise CacheFileError(path, "is an SQLite file, but not a cache", f"Check the path, or {ELSEWHERE}.")
        return False
    if version != VERSION:
        suggestion = f"Export it with the release that wrote it, and import the snapshot here, or {ELSEWHERE}."
        raise CacheFileError(path, f"is a cache of version {version}; this release reads version {VERSION}", suggestion)
    # An untrusted file could run SQL with views, triggers or generated columns, so only our own tables are allowed.
    expected = {_normalize_sql(statement) for statement in _SCHEMA.split(";") if "CREATE TABLE" in statement}
    if statements != expected:
        advice = "It is damaged, or another program has changed it. Import a snapshot into a new file"
        raise CacheFileError(path, "has other tables than a cache", f"{advice}, or {ELSEWHERE}.")
    return True


def _read_format(connection: sqlite3.Connection) -> tuple[int, int, set[str]]:
    """Return a file's application id, its version, and the SQL of its tables, views, triggers and indexes."""
    # One transaction reads all three, since another process may be creating the tables.
    connection.execute("BEGIN")
    try:
        [[application]] = connection.execute("PRAGMA application_id").fetchall()
        [[version]] = connection.execute("PRAGMA user_version").fetchall()
        query = "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"  # not SQLite's own tables
        statements = {_normalize_sql(str(sql)) for (sql,) in connection.execute(query)}
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return application, version, statements


def _normalize_sql(sql: str) -> str:
    """Return the SQL with single spaces, so that statements can be compared."""
    return " ".join(sql.split())


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    """Set the journal of a new file: a write-ahead log, or a rollback journal where that is impossible."""
    mode = ""
    try:
        with closing(connection.execute("PRAGMA journal_mode = WAL")) as cursor:
            mode = cursor.fetchone()[0]  # the mode that is now set
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_READONLY")):
            raise
    if mode == "wal":
        return
    logger.warning("%s: this file system has no shared memory, so the cache uses a rollback journal (slower)", path)
    connection.execute("PRAGMA journal_mode = DELETE")


@contextmanager
def cache_file_errors(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Turn errors of SQLite and of the file system inside the block into CacheFileError.

    `reading` is for blocks that only read; it chooses the message.
    """
    try:
        yield
    except sqlite3.Error as error:
        problem, suggestion = _explain(error, reading=reading)
        raise CacheFileError(path, f"{problem} ({error})", suggestion) from error
    except OSError as error:
        problem = "cannot be written"
        suggestion = f"Make the folder writable, or {ELSEWHERE}."
        if reading:
            problem, suggestion = _UNREADABLE
        raise CacheFileError(path, f"{problem} ({error.strerror or error})", suggestion) from error


def _explain(error: sqlite3.Error, *, reading: bool) -> tuple[str, str]:
    """Return the problem and the suggestion for an error of SQLite."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    if reading and name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY")):
        return _UNREADABLE
    for start, meaning in _MEANINGS.items():
        if name.startswith(start):
            return meaning
    return "is damaged, or not a cache file", f"Delete it and fetch again, or {ELSEWHERE}."


def dumps(value: Any) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, ASCII escapes only with lone surrogates."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text


def pack(value: Any) -> str | bytes:
    """Return a value as it is stored: as JSON text, or zlib-compressed if that has less than 0.8 bytes a character."""
    text = dumps(value)
    if len(text) < _SHORT_TEXT:
        return text
    packed = zlib.compress(text.encode(), 6)
    if len(packed) < 0.8 * len(text):
        return packed
    return text


def unpack(stored: str | bytes, path: Path) -> Any:
    """Return the value that `pack` stored in the cache file `path`."""
    try:
        if isinstance(stored, bytes):
            most = read_answer_limit()
            unzip = zlib.decompressobj()
            stored = unzip.decompress(stored, most)  # stops at `most`: a small text may unpack to gigabytes
            if not unzip.eof:
                raise ValueError(
                    f"it is cut off, or larger than the limit of {most / 1e6:g} MB, which {LIMIT_VARIABLE} sets"
                )
        return parse(stored)
    except (ValueError, zlib.error) as error:
        raise CacheFileError(path, f"is damaged: a value cannot be read ({error})", DAMAGED_ADVICE) from error
