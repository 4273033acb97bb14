"""One process at a time works on a folder: two would write every line twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kg_edit.errors import OutputError


@contextmanager
def alone_in(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes out of ``folder``, which is there; a killed process keeps none out.

    ``wait``: seconds that another process is given to end.

    Raises:
        OutputError: another process works on it.
    """
    lock = FileLock(folder / ".lock", timeout=wait)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another process works on {folder}; wait for it, end it, or give another folder") from error
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()
