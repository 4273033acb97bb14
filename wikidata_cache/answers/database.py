"""One SQLite connection a process to a cache file, opened when it is first needed, safe to kill at any time.

From what SQLite raises to a CacheFileError that says what to do about it.

Opening a cache file: for writing, which makes it, or for reading, which never changes it.

JSON values as they lie in the cache file: text, or zlib where that saves something.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from wikidata_cache.errors import CacheFileError

ELSEWHERE = "give another file with --cache FILE (cache=...) or KG_CACHE"

# What it means and the way out, by the beginning of SQLite's own name for the error.
_MEANINGS = {
    "SQLITE_FULL": ("no space left to write", f"What was kept is safe. Free some space, or {ELSEWHERE}."),
    "SQLITE_READONLY": ("cannot be written", f"Make the file and its folder writable, or {ELSEWHERE}."),
    "SQLITE_CANTOPEN": ("cannot be opened", f"Check that its folder is there and writable, or {ELSEWHERE}."),
    "SQLITE_PERM": ("cannot be opened", f"Check its permissions, or {ELSEWHERE}."),
    "SQLITE_NOTADB": ("is no cache file", f"Check the path, or {ELSEWHERE}."),
    "SQLITE_CORRUPT": (
        "is damaged",
        "Restore it from an exported snapshot (`wikidata-cache import`), or delete it and fetch again.",
    ),
    "SQLITE_BUSY": ("another program has held it for a minute", f"Close that program, or {ELSEWHERE}."),
    "SQLITE_IOERR": ("cannot be read or written", f"Free some space and check the disk, or {ELSEWHERE}."),
}


_UNREADABLE = ("cannot be read", f"Check its permissions and those of its folder, or {ELSEWHERE}.")


@contextmanager
def explained(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Raise CacheFileError for what goes wrong with a cache file inside the block, which may only be reading it."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        found = (meaning for start, meaning in _MEANINGS.items() if name.startswith(start))
        problem, way_out = next(found, ("is damaged or no cache file", f"Delete it and fetch again, or {ELSEWHERE}."))
        if reading and name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY")):
            problem, way_out = _UNREADABLE
        raise CacheFileError(path, f"{problem} ({error})", way_out) from error
    except OSError as error:
        problem, way_out = (
            _UNREADABLE if reading else ("cannot be written", f"Make the folder writable, or {ELSEWHERE}.")
        )
        raise CacheFileError(path, f"{problem} ({error.strerror or error})", way_out) from error


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


_WORTH_SAYING = 5.0  # seconds


class Database:
    """A cache file. Reading never makes one; the first `writing` does. Raises CacheFileError.

    A forked child opens its own connection, as SQLite's must not cross a fork.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self._lock = RLock()
        self._open: tuple[int, bool, sqlite3.Connection] | None = None  # process, may write, connection
        self._of_parents: list[sqlite3.Connection] = []  # closing them would drop the parent's file locks

    def __reduce__(self) -> tuple[object, ...]:
        return _database, (self.path, self.read_only)

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query; none where there is no file yet."""
        with self._lock, explained(self.path, reading=True):
            connection = self._connection(write=False)
            return [] if connection is None else connection.execute(sql, parameters).fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """One unchanging view of the file for several queries; None where there is no file yet."""
        with self._lock, explained(self.path, reading=True):
            connection = self._connection(write=False)
            if connection is not None:
                connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection is not None:
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of the block is kept, or nothing."""
        with self._lock, explained(self.path):
            connection = self._connection(write=True)
            assert connection is not None  # noqa: S101  # writing opens or raises
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def alone(self, purpose: str) -> Iterator[None]:
        """Hold one of the file's locks over all processes; it ends with the process, however that ends.

        The locks lie in a folder beside the file and stay there: to remove one while another process opens it
        would give two processes the same right.
        """
        with explained(self.path):
            name = re.sub(r"[^\w.-]", "_", purpose)
            lock = FileLock(_lock_folder(self.path) / f"{name}.lock", poll_interval=0.01)
            _acquire(lock)
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._lock:
            if self._open is not None and self._open[0] == os.getpid():
                self._open[2].close()
            self._open = None

    def _connection(self, *, write: bool) -> sqlite3.Connection | None:
        if self._open is not None:
            process, may_write, held = self._open
            if process == os.getpid() and (may_write or not write):
                return held
            if process != os.getpid():
                self._of_parents.append(held)
                self._open = None
        if write and self.read_only:
            raise CacheFileError(self.path, "was opened for reading only", f"To keep answers, {ELSEWHERE}.")
        if not write and not self.path.exists():
            return None
        opened = self._writer() if write else open_reader(self.path)
        self.close()
        if opened is not None:
            self._open = (os.getpid(), write, opened)
        return opened

    def _writer(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.alone("making"):  # two processes that make one file get in each other's way
            return open_writer(self.path)


def _database(path: Path, read_only: bool) -> Database:
    return Database(path, read_only=read_only)


def _lock_folder(path: Path) -> Path:
    """The folder of a cache file's locks; whoever may write beside the file may write there too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f"{path.name}.locks")
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        with suppress(OSError):  # not every file system knows modes
            shutil.copymode(path.parent, folder)
    return folder


def _acquire(lock: FileLock) -> None:
    try:
        lock.acquire(timeout=_WORTH_SAYING)
    except Timeout:
        logger.info("%s: waiting for another process to finish its request", lock.lock_file)
        lock.acquire()


_WORTH_PACKING = 300  # characters; zlib saves nothing on shorter texts


def dumps(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, readable letters (escapes where UTF-8 has none)."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text


def pack(value: Any) -> str | bytes:
    """A value as SQLite shall keep it."""
    text = dumps(value)
    if len(text) < _WORTH_PACKING:
        return text
    packed = zlib.compress(text.encode(), 6)
    return packed if len(packed) < 0.8 * len(text) else text


def unpack(stored: str | bytes) -> Any:
    """The value that `pack` was given."""
    return json.loads(zlib.decompress(stored) if isinstance(stored, bytes) else stored)
