"""The unfinished store: a folder next to the target, in which `load` works and records its progress.

Every batch is added to the database before it is recorded in `progress.json`, and adding a triple twice has no effect.
So a load that was killed resumes after the last recorded batch, and gives the same store. Lines with literals, and the
numbers of statements per id, are spooled to files, from which the label index is built at the end.
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

from kg_common.atomic import write_atomically
from kg_common.json_text import parse
from wikidata_cache.errors import StoreError
from wikidata_cache.stores.manifest import LABELS, MANIFEST, SourceFile, work_folder

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
NAMES = "names.nt"  # the lines with a literal; `read_names` picks the labels and aliases for the label index
WEIGHTS = "weights.i64"  # pairs: number of an id (negative for properties), number of statements with this id
_LOCK = "lock"
_TEMPORARY = (f"{LABELS}.*.tmp", f".{PROGRESS}-*", f".{MANIFEST}-*")  # files that a killed process leaves


class Work:
    """The locked folder of an unfinished store, with its progress. `open_work` makes it."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress

    def spool(self, name: str, content: bytes) -> int:
        """Append to the spool file `name`, flush it to disk, and return its new size in bytes."""
        with (self.folder / name).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def record(self) -> None:
        """Write progress.json: everything up to here is in the database and in the spool files."""
        write_atomically(self.folder / PROGRESS, json.dumps(asdict(self.progress)))


@dataclass
class Progress:
    """The progress of a load (the content of progress.json).

    `plan` describes sources and options; a load with another plan starts over. `offset`, `lines` and `kept` count the
    current source, the other counts cover all sources.
    """

    plan: list[object]
    done: list[SourceFile] = field(default_factory=list)
    offset: int = 0  # bytes of the current source, unzipped
    lines: int = 0
    kept: int = 0
    statements: int = 0
    content_hash: int = 0
    names: int = 0  # the size of the spool file of names, in bytes
    weights: int = 0  # the size of the spool file of weights, in bytes
    skipped: int = 0
    probes: list[str] = field(default_factory=list)

    @property
    def triples(self) -> int:
        """The number of triples kept so far, over all sources."""
        return self.kept + sum(source["kept"] for source in self.done)

    def finish_source(self, source: SourceFile) -> None:
        """Count the current source as done; the next one begins at its first byte."""
        self.done.append(source)
        self.offset = 0
        self.lines = 0
        self.kept = 0


@contextmanager
def open_work(target: Path, plan: list[object]) -> Iterator[Work]:
    """Lock the folder TARGET.loading; resume an interrupted load with the same plan, else begin with it empty."""
    folder = work_folder(target)
    if folder.exists() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise StoreError(folder, "exists already, and is not an unfinished store; move it, or give another --store")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            if not (folder / _LOCK).exists():  # the process that held the lock has just moved the folder away
                raise StoreError(target, "another process has just finished loading this store")
            progress = _read_progress(folder, plan)
            if progress is None:
                _empty_folder(folder)
                progress = Progress(plan)
            _drop_unrecorded(folder, progress)
            yield Work(folder, progress)
    except Timeout as error:  # of this lock: `load` waits for no other
        raise StoreError(target, "another process is loading this store; wait until it ends") from error


def swap_in(folder: Path, target: Path) -> None:
    """Move a finished store to `target`. An older store there is moved aside first, and deleted last."""
    aside = _name_backup(target)
    _delete_leftovers(folder)
    # Two renames: a kill between them leaves the old store at `aside`; `restore_interrupted_swap` moves it back.
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
    try:
        folder.replace(target)
    except OSError:
        restore_interrupted_swap(target)
        raise
    for name in (NAMES, WEIGHTS, PROGRESS, _LOCK):
        (target / name).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


def restore_interrupted_swap(target: Path) -> None:
    """Move back a store that `swap_in` had moved aside when it was interrupted."""
    if not target.exists() and _name_backup(target).exists():
        _name_backup(target).replace(target)


def _empty_folder(folder: Path) -> None:
    """Delete everything in the folder but the lock."""
    for path in folder.iterdir():
        if path.name == _LOCK:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _drop_unrecorded(folder: Path, progress: Progress) -> None:
    """Cut the spool files to their recorded sizes, or make empty ones, and delete temporary files.

    A batch that was spooled but not recorded will be read and spooled again.
    """
    _delete_leftovers(folder)
    for name, size in ((NAMES, progress.names), (WEIGHTS, progress.weights)):
        with (folder / name).open("ab") as file:
            file.truncate(size)


def _read_progress(folder: Path, plan: list[object]) -> Progress | None:
    """Return the progress of an earlier load with the same plan; None if there is none."""
    try:
        progress = Progress(**parse((folder / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if progress.plan != json.loads(json.dumps(plan)):  # JSON makes lists of the plan's tuples, as in progress.json
        logger.info("%s was made by a load with other sources or options; starting over", folder)
        return None
    logger.info("Resuming where an earlier load stopped: %d triples are stored", progress.triples)
    return progress


def _delete_leftovers(folder: Path) -> None:
    """Delete the temporary files of an earlier process."""
    for pattern in _TEMPORARY:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _name_backup(target: Path) -> Path:
    """Return the place of an old store while a new one is moved to `target`."""
    return target.with_name(f"{target.name}.replaced")
