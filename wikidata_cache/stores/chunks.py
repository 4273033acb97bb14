"""Big files by the chunk: unzipped, cut at line ends, hashed and counted on the way."""

import bz2
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

from tqdm import tqdm

from wikidata_cache.errors import GraphFileError

CHUNK = 16 << 20
_HEAD = 1 << 16
_CORRUPT = (gzip.BadGzipFile, EOFError, zlib.error)
_OTHER = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


class Chunk(NamedTuple):
    """Whole lines; the number of the first one, and where in the unzipped file the next chunk starts."""

    lines: bytes
    first: int
    end: int


class _Hashed:
    """A file as it lies on disk: hashed and shown as progress while it is read once, from start to end."""

    def __init__(self, file: IO[bytes], bar: "tqdm[None]") -> None:
        self._file = file
        self._bar = bar
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        return self._seen(self._file.read(size))

    def readline(self) -> bytes:
        return self._seen(self._file.readline())

    def _seen(self, data: bytes) -> bytes:
        self.digest.update(data)
        self._bar.update(len(data))
        return data


class ChunkReader:
    """Reads one file of lines from wherever an earlier reading had come to. Use `open_chunks`."""

    def __init__(self, path: Path, raw: _Hashed) -> None:
        self.path = path
        self._raw = raw
        self._file = _unzipped(cast(IO[bytes], raw), path)

    @property
    def sha256(self) -> str:
        """The hash of the file as it lies on disk, once all of it has been read."""
        return self._raw.digest.hexdigest()

    def chunks(self, *, start: int = 0, lines: int = 0) -> Iterator[Chunk]:
        """The rest of the file after byte `start` of the unzipped text, of which `lines` lines are known.

        Raises GraphFileError where the file is corrupt, cut off or cannot be read.
        """
        number = lines + 1
        try:
            self._skip(start)
            while text := self._file.read(CHUNK):
                text += b"" if text.endswith(b"\n") else self._file.readline()
                start += len(text)
                whole = text if text.endswith(b"\n") else text + b"\n"
                yield Chunk(whole, number, start)
                number += whole.count(b"\n")
            if self._raw.read(1):  # a damaged part of a .bz2 ends it for Python, without a word
                raise EOFError("what follows cannot be unpacked")
        except _CORRUPT as error:
            problem = f"corrupt or cut-off compressed file ({error}); fetch the file again"
            raise GraphFileError(self.path, problem, line=number) from error
        except OSError as error:
            raise GraphFileError(self.path, f"cannot be read ({error.strerror or error})", line=number) from error

    def _skip(self, count: int) -> None:
        while count:
            read = len(self._file.read(min(count, CHUNK)))
            if not read:
                raise EOFError("it is shorter than it was")
            count -= read


@contextmanager
def open_chunks(path: Path) -> Iterator[ChunkReader]:
    """A reader of the file, with a progress bar on stderr; raises GraphFileError where it cannot be opened."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    size = path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False)
    with closing(file), closing(bar):
        yield ChunkReader(path, _Hashed(file, bar))


def head(path: Path) -> bytes:
    """The first bytes of the unzipped file; raises GraphFileError where there are none to read."""
    try:
        with path.open("rb") as file:
            return _unzipped(file, path).read(_HEAD)
    except _CORRUPT as error:
        raise GraphFileError(path, f"corrupt or cut-off compressed file ({error}); fetch the file again") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unzipped(file: IO[bytes], path: Path) -> IO[bytes]:
    """By what the file begins with, not by its name."""
    with path.open("rb") as start:
        magic = start.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic in _OTHER:
        raise GraphFileError(path, f"is compressed with {_OTHER[magic]}; unpack it, or compress it with gzip")
    return file


def _unreadable(path: Path, error: OSError) -> GraphFileError:
    problem = "does not exist; check the path" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
    return GraphFileError(path, problem)
