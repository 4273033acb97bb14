"""One SQLite connection a process to a cache file, opened when it is first needed, safe to kill at any time."""

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock, Timeout

from wikidata_cache.answers.opening import open_reader, open_writer
from wikidata_cache.answers.sqlite_errors import ELSEWHERE, explained
from wikidata_cache.errors import CacheFileError

logger = logging.getLogger(__name__)

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
