"""Write the Oxigraph database of an unfinished store: add, compact and recount triples, and build the label index.

The label index is made from spool files, which `load.py` writes while it loads the triples.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pyoxigraph import DefaultGraph, RdfFormat, Store

from wikidata_cache.errors import LabelIndexError, StoreError
from wikidata_cache.labels.label_index import LabelCounts, LabelEntry, WeightCounts, build_label_index
from wikidata_cache.stores.chunks import add_hashes, hash_lines
from wikidata_cache.stores.manifest import ENGINE
from wikidata_cache.stores.ntriples import read_names, statement_numbers

_BLOCK = 16 << 20  # bytes
_AGAIN = "or give another --store, and run the same command again: it resumes where it stopped"

_FILES = 10_240  # open files; the most that every macOS allows

_INDEX_BLOCK = 1 << 20  # pairs


class Database:
    """An Oxigraph database that is being written. Use it as a context manager.

    The engine releases its lock when its `Store` object is deleted, but a traceback could keep that object alive.
    Therefore only this class holds a reference to it, and drops it on exit.
    """

    def __init__(self, folder: Path) -> None:
        _allow_many_files()
        self._store = Store(str(folder / ENGINE))

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        del self._store

    def add(self, parts: Sequence[bytes]) -> None:
        """Add the triples of all parts (N-Triples), one thread per part."""
        # The engine releases the GIL, so that `read_ahead` can read the next batch meanwhile.
        with ThreadPoolExecutor(len(parts) or 1) as threads:  # the last batch of a file may have no part
            for loaded in [threads.submit(self._load, part) for part in parts]:
                loaded.result()  # raises what the thread raised
        self._store.flush()

    def _load(self, part: bytes) -> None:
        self._store.bulk_load(part, RdfFormat.N_TRIPLES, lenient=True)

    def optimize(self) -> int:
        """Compact the database for reading, and return the number of distinct triples."""
        self._store.flush()
        self._store.optimize()
        return len(self._store)

    def recount(self) -> tuple[int, int]:
        """Dump all stored triples, and return (content hash, number of statements). This is slower than loading."""
        counter = _Counter()
        self._store.dump(counter, RdfFormat.N_TRIPLES, from_graph=DefaultGraph())  # type: ignore[arg-type]
        counter.flush()
        return counter.content_hash, counter.statements


class _Counter:
    """A write-only file that computes the content hash and the number of statements of the N-Triples written to it."""

    def __init__(self) -> None:
        self.content_hash = 0
        self.statements = 0
        self._rest = bytearray()

    def write(self, text: bytes) -> int:
        """Append `text`; count the complete lines once enough bytes are there. Return the number of bytes of `text`."""
        self._rest += text
        if len(self._rest) > _BLOCK:
            complete, _, rest = bytes(self._rest).rpartition(b"\n")
            if complete:  # empty if a single line is longer than the block
                self._count(complete.split(b"\n"))
            self._rest = bytearray(rest)
        return len(text)

    def flush(self) -> None:
        """Count the lines that are left. An unfinished line without its end waits for the next `write`."""
        if self._rest.endswith(b"\n"):
            self._count(bytes(self._rest[:-1]).split(b"\n"))
            self._rest.clear()

    def _count(self, lines: Sequence[bytes]) -> None:
        self.content_hash = add_hashes(self.content_hash, hash_lines(lines))
        self.statements += len(statement_numbers(lines))


def _allow_many_files() -> None:
    """Raise this process's limit of open files: the engine opens every file of the database."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        limit = hard
        if hard == resource.RLIM_INFINITY:  # on macOS, which refuses a soft limit that is infinite as well
            limit = max(soft, _FILES)
        # The engine also works with fewer files, so a system that refuses the limit stays as it is.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@contextmanager
def store_write_errors(target: Path) -> Iterator[None]:
    """Turn errors of files, database and label index inside the block into a StoreError that names the target."""
    try:
        yield
    except LabelIndexError as error:
        raise _explain_unwritable(target, error.problem) from error
    except (OSError, RuntimeError) as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise _explain_unwritable(target, str(error), is_full=is_full) from error


def _explain_unwritable(target: Path, problem: str, *, is_full: bool = False) -> StoreError:
    """Return the error of a store that cannot be written, with what helps."""
    way = "make its folder writable"
    if is_full or "no space" in problem.lower():  # the engine's errors have no number
        way = "free some space"
    return StoreError(target, f"cannot be written ({problem}); {way} {_AGAIN}")


def index_names(path: Path, spooled: Path, weights: Path) -> tuple[LabelCounts, WeightCounts]:
    """Write the label index to `path` from the spool files of names and weights; return the sizes of both."""
    with spooled.open("rb") as file:
        rows = read_names(line.removesuffix(b"\n") for line in file)
        entries = map(LabelEntry._make, rows)  # both have the fields id, text, language, kind
        return build_label_index(path, entries, weights=_read_statements_per_id(weights))


def _read_statements_per_id(weights: Path) -> Iterator[tuple[str, int]]:
    """Yield ids with their numbers of statements from a file of int64 pairs, in which a property is negative."""
    with weights.open("rb") as pairs:
        while block := pairs.read(16 * _INDEX_BLOCK):  # a pair has 16 bytes
            for number, count in np.frombuffer(block, dtype="<i8").reshape(-1, 2).tolist():
                if number >= 0:
                    yield f"Q{number}", count
                else:
                    yield f"P{-number}", count
