"""From what SQLite raises to a CacheFileError that says what to do about it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
