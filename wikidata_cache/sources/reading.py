"""A binary file reader that unzips, counts lines, hashes and shows progress on big files."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from tqdm import tqdm

_PROGRESS_FROM = 5_000_000  # bytes on disk; smaller files load in well under a second
_CHUNK = 1 << 20


class CountingReader:
    """Reads a file, gunzipped where its name ends in .gz, and knows how many lines have gone by.

    `lines` counts line ends that were read (and a last line without one). Progress goes to stderr, and only
    for files above 5 MB. Use as a context manager.
    """

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self._path = path
        self._raw: IO[bytes] = path.open("rb")
        self._file = gzip.GzipFile(fileobj=self._raw) if path.name.lower().endswith(".gz") else self._raw
        size = path.stat().st_size
        self._bar = tqdm(
            total=size,
            unit="B",
            unit_scale=True,
            desc=path.name,
            disable=True if size < _PROGRESS_FROM else None,
            leave=False,
        )

    def __enter__(self) -> "CountingReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._raw.close()

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` unzipped bytes; all of them for -1."""
        chunk = self._file.read(size)
        self.lines += chunk.count(b"\n")
        if chunk and not self.lines:
            self.lines = 1
        self._bar.update(self._raw.tell() - self._bar.n)
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            self.lines += 1
            if not self.lines % 10_000:
                self._bar.update(self._raw.tell() - self._bar.n)
            yield line

    def sha256(self) -> str:
        """The hash of the file as it lies on disk, still zipped."""
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()
