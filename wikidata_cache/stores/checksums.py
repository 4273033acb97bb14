"""Whether the files of a store are those that `load` wrote: their sizes, times and sha256."""

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from wikidata_cache.errors import StoreError

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
_SLOW_S = 1.0
AGAIN = "load it again: `wikidata-cache load SOURCE --store {folder} --force`"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a finished store: its size, the time of its last change, and what is in it."""

    bytes: int
    mtime_ns: int
    sha256: str


def describe(path: Path) -> StoredFile:
    """What is to be known of a file that nobody will change any more."""
    said = path.stat()
    return StoredFile(bytes=said.st_size, mtime_ns=said.st_mtime_ns, sha256=_sha256([path])[path])


def check(folder: Path, files: Mapping[str, StoredFile], *, every: bool = False) -> None:
    """Raise StoreError, naming the file, where one of the folder's files is missing or not what it was.

    A file with its size and time of change is trusted; of one that was copied or touched, or of `every` one, the
    content is compared.
    """
    doubtful = [name for name, known in files.items() if _stat_differs(folder, name, known) or every]
    begun = time.monotonic()
    try:
        found = _sha256([folder / name for name in doubtful])
    except OSError as error:
        problem = f"is damaged, or its disk is: {error.filename or 'a file'} cannot be read ({error.strerror or error})"
        raise StoreError(folder, f"{problem}. {_way_out(folder)}") from error
    for name in doubtful:
        if found[folder / name] != files[name].sha256:
            raise StoreError(folder, f"is damaged: the content of {name} is not what was loaded. {_way_out(folder)}")
    if not every and (seconds := time.monotonic() - begun) > _SLOW_S:
        logger.info(
            "%s: %d files that were copied or touched since they were loaded are whole (%.0f s to read them; "
            "copies that keep times, as with cp -a or rsync -a, are not read)",
            folder,
            len(doubtful),
            seconds,
        )


def _stat_differs(folder: Path, name: str, known: StoredFile) -> bool:
    """Whether the time of change does; raises StoreError where the size does."""
    try:
        said = (folder / name).stat()
    except FileNotFoundError as error:
        raise StoreError(folder, f"is not whole: {name} is missing. {_way_out(folder)}") from error
    except OSError as error:
        raise StoreError(folder, f"{name} cannot be read ({error.strerror or error}). {_way_out(folder)}") from error
    if said.st_size != known.bytes:
        problem = f"is not whole: {name} has {said.st_size} bytes instead of {known.bytes}"
        raise StoreError(folder, f"{problem}. {_way_out(folder)}")
    return said.st_mtime_ns != known.mtime_ns


def _sha256(paths: Iterable[Path]) -> dict[Path, str]:
    """Of each file, with a progress bar where that takes more than a second."""
    files = list(paths)
    total = sum(path.stat().st_size for path in files)
    bar = tqdm(total=total, unit="B", unit_scale=True, desc="checking", disable=None, leave=False, delay=_SLOW_S)
    with closing(bar):
        return {path: _hashed(path, bar) for path in files}


def _hashed(path: Path, bar: "tqdm[None]") -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _way_out(folder: Path) -> str:
    return f"Copy the folder again from where it came, or {AGAIN.format(folder=folder)}"
