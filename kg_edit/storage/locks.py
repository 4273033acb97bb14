"""Locks on folders: only one process at a time works in one; two processes would write every line twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kg_edit.errors import OutputError

LOCK = ".lock"


@contextmanager
def folder_lock(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes out of an existing ``folder``, and raise at the end if it was deleted or replaced meanwhile.

    The lock of a killed process is free. ``wait`` is the number of seconds to wait for another process to end.
    """
    with _check_still_there(folder), lock(folder, wait=wait):
        yield


@contextmanager
def lock(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file of a folder within the ``with`` block; ``wait`` is as in `folder_lock`.

    Nothing is locked where the file system has no locks, or where the lock file can't be written.
    """
    file = FileLock(folder / LOCK, timeout=wait)
    try:
        file.acquire()
    except Timeout as error:
        raise OutputError(f"another process works on {folder}; wait for it, end it, or give another folder") from error
    except (OSError, NotImplementedError):
        pass  # the work goes on without a lock
    try:
        yield
    finally:
        file.release()  # does nothing if it is not held


@contextmanager
def _check_still_there(folder: Path) -> Iterator[None]:
    """Raise at the end if the folder was deleted or replaced in the meantime, since the written files are then lost."""
    handle = None
    with suppress(OSError):  # Windows can't open folders
        handle = os.open(folder, os.O_RDONLY)  # while it is open, its inode number is not given to another folder
    try:
        before = _stat(folder)
        yield
        after = _stat(folder)
    finally:
        if handle is not None:
            os.close(handle)
    if before is not None and (after is None or not os.path.samestat(before, after)):
        raise OutputError(
            f"{folder} was deleted or replaced during the run, and the files written there are lost; start again"
        )


def _stat(folder: Path) -> os.stat_result | None:
    """Return the file system's record of a folder; None if it can't be read."""
    try:
        return folder.stat()
    except OSError:
        return None
