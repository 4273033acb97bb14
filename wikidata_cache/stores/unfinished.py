"""The unfinished store: a folder beside the target, with a record of how far its loading has come.

Every batch is added to the database before `progress.json` says so, and adding a triple twice is adding it once. So a
loading that was killed goes on after the last recorded batch, and ends in the same store. Lines with names and counts
of ids are spooled to files, from which the label index is built at the end.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from wikidata_cache.atomic import write_atomically
from wikidata_cache.errors import StoreError
from wikidata_cache.stores.manifest import LABELS, MANIFEST, SourceFile

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
NAMES = "names.nt"  # lines with labels and aliases, for the label index
WEIGHTS = "weights.i64"  # pairs of an id's number (negative for properties) and how many statements it is in
_LOCK = "lock"
_UNFINISHED = (f"{LABELS}.*.tmp", f".{PROGRESS}-*", f".{MANIFEST}-*")  # temporary files that a killed process leaves


class Work:
    """The locked folder of an unfinished store, with its progress. Made by `open_work`."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress
        _delete_leftovers(folder)
        for name, size in ((NAMES, progress.names), (WEIGHTS, progress.weights)):
            with (folder / name).open("ab") as file:
                file.truncate(size)

    def spool(self, name: str, content: bytes) -> int:
        """Append to the spool `name` and flush it to disk; returns its new size in bytes."""
        with (self.folder / name).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def record(self) -> None:
        """Write progress.json: everything up to here has been added."""
        write_atomically(self.folder / PROGRESS, json.dumps(asdict(self.progress)))


@dataclass
class Progress:
    """How far a loading has come (the content of progress.json).

    `plan` describes sources and options: a loading with another plan starts over. `offset`, `lines` and `kept` are of
    the current source, the other counts of all sources.
    """

    plan: list[object]
    done: list[SourceFile] = field(default_factory=list)
    offset: int = 0  # bytes of the current source, unzipped
    lines: int = 0
    kept: int = 0
    statements: int = 0
    content_hash: int = 0
    names: int = 0  # bytes of the spools
    weights: int = 0
    skipped: int = 0
    probes: list[str] = field(default_factory=list)

    @property
    def triples(self) -> int:
        """Triples kept of all sources so far."""
        return self.kept + sum(source["kept"] for source in self.done)


@contextmanager
def open_work(target: Path, plan: list[object]) -> Iterator[Work]:
    """Lock the folder TARGET.loading; resume what an interrupted loading with the same plan left, else start anew.

    Raises StoreError where another process holds the lock, or the folder was not made by `load`.
    """
    folder = target.with_name(f"{target.name}.loading")
    if folder.exists() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise StoreError(folder, "is in the way, and no unfinished store; move it, or give another --store")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            if not (folder / _LOCK).exists():  # the process that held the lock has just moved it into place
                raise StoreError(target, "another process has just finished loading it")
            yield Work(folder, _resumed(folder, plan) or _started(folder, plan))
    except Timeout as error:
        raise StoreError(target, "another process is loading it just now; wait for it") from error


def swap_in(folder: Path, target: Path) -> None:
    """Move a finished store to `target`; an older one is put aside first, and deleted last."""
    aside = _backup_path(target)
    _delete_leftovers(folder)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
    try:
        folder.replace(target)
    except OSError:
        restore(target)
        raise
    for name in (NAMES, WEIGHTS, PROGRESS, _LOCK):
        (target / name).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


def restore(target: Path) -> None:
    """Bring back a store that `swap_in` had put aside when it was interrupted."""
    if not target.exists() and _backup_path(target).exists():
        _backup_path(target).replace(target)


def discard(folder: Path) -> None:
    """Delete an unfinished store; call it only while it is locked."""
    shutil.rmtree(folder, ignore_errors=True)


def _resumed(folder: Path, plan: list[object]) -> Progress | None:
    try:
        found = Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if found.plan != json.loads(json.dumps(plan)):
        logger.info("%s was left by a loading of other sources or options; starting over", folder)
        return None
    logger.info("Going on where an earlier loading stopped: %d triples are in", found.triples)
    return found


def _started(folder: Path, plan: list[object]) -> Progress:
    for path in folder.iterdir():
        if path.name != _LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Progress(plan)


def _delete_leftovers(folder: Path) -> None:
    for pattern in _UNFINISHED:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _backup_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.replaced")
