"""Read big files in chunks of whole lines: unzip, hash and count them, and collect them into batches of triples.

`open_chunks` opens a file, which can be read from an earlier position. `make_batches` translates chunks and prepares
what the database, the label index and the manifest need. `read_ahead` makes the next batch in a thread while the
current one is stored.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import zlib
from codecs import BOM_UTF8
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import blake2b
from math import ceil
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar, cast

from kg_common.progress import Bar
from wikidata_cache.errors import GraphFileError
from wikidata_cache.stores.ntriples import LineTranslator, statement_numbers

if TYPE_CHECKING:  # only `load` needs numpy
    import numpy as np

CHUNK = 16 << 20  # bytes
_HEAD = 1 << 16  # bytes
_LONGEST_LINE = 64 << 20  # bytes; the longest entities of Wikidata's dump have some 10 MB
_TOO_LONG = f"has a line of more than {_LONGEST_LINE >> 20} MiB, which no dump has; fetch the file again"
_CORRUPT = (gzip.BadGzipFile, EOFError, zlib.error)  # what reading a damaged or cut-off file raises
_OTHER = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}

PARTS = 2  # parts of a batch, which are added to the database in parallel
_KEPT = 48 << 20  # bytes of kept lines in a batch: about 400,000 triples
_READ = 512 << 20  # bytes to read at most for one batch, even if few lines were kept
_MODULUS = 1 << 128
_LONGEST_PROBE = 10_000  # bytes; probes are stored in the manifest, and parsed whenever the store is opened

Item = TypeVar("Item")


class Chunk(NamedTuple):
    """Whole lines of a file."""

    lines: bytes  # also the last one has a line end
    first: int  # number of the first line, from 1
    end: int  # position after the chunk, in bytes of the unzipped file


@contextmanager
def open_chunks(path: Path) -> Iterator[ChunkReader]:
    """Open a file for reading in chunks, with a progress bar on stderr."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise _explain_unreadable(path, error) from error
    size = path.stat().st_size
    bar = Bar(title=path.name, unit="B", total=size, leave=False)
    with closing(file), closing(bar):
        yield ChunkReader(path, _HashingFile(file, bar))


class ChunkReader:
    """Reads the lines of one file, from the position where an earlier run stopped. `open_chunks` makes it."""

    def __init__(self, path: Path, raw: _HashingFile) -> None:
        self.path = path
        self._raw = raw
        self._file = _unzip(cast(IO[bytes], raw), path)

    @property
    def sha256(self) -> str:
        """The sha256 of the file's bytes on disk, as hex; valid only after the whole file has been read."""
        return self._raw.digest.hexdigest()

    def read_chunks(self, *, start: int = 0, lines: int = 0) -> Iterator[Chunk]:
        """Yield the chunks of the file from byte `start` of the unzipped text; `lines` lines come before that byte."""
        position = start
        number = lines + 1  # of the first line of the next chunk
        with self._read_errors(number):
            self._skip(start)
        while True:
            with self._read_errors(number):
                text = self._read_whole_lines(number)
            if not text:
                return
            position += len(text)
            if not text.endswith(b"\n"):  # the last line of the file
                text += b"\n"
            if number == 1:
                text = text.removeprefix(BOM_UTF8)
            yield Chunk(text, number, position)
            number += text.count(b"\n")

    @contextmanager
    def _read_errors(self, number: int) -> Iterator[None]:
        """Turn errors of reading and unzipping inside the block into a GraphFileError with this number of a line."""
        try:
            yield
        except _CORRUPT as error:
            problem = f"corrupt or cut-off compressed file ({error}); fetch the file again"
            raise GraphFileError(self.path, problem, line=number) from error
        except OSError as error:
            raise GraphFileError(self.path, f"cannot be read ({error.strerror or error})", line=number) from error

    def _read_whole_lines(self, number: int) -> bytes:
        """Read 16 MiB of the unzipped text, and the rest of the line that is cut there; b"" at the end of the file.

        If 16 MiB end in the middle of "Q42 P31 Q5", after "Q42 P", then "31 Q5" is read too. `number` is that of the
        first line.
        """
        text = self._file.read(CHUNK)
        if not text and self._raw.read(1):  # Python takes a damaged part of a .bz2 for its end, without an error
            raise EOFError("the rest of the file cannot be unpacked")
        if not text or text.endswith(b"\n"):
            return text
        rest = self._file.readline(_LONGEST_LINE)
        text += rest
        if len(rest) == _LONGEST_LINE:
            raise GraphFileError(self.path, _TOO_LONG, line=number + text.count(b"\n"))
        return text

    def _skip(self, size: int) -> None:
        """Read and drop the next `size` bytes of the unzipped text."""
        while size:
            read = len(self._file.read(min(size, CHUNK)))
            if not read:
                raise EOFError("the file is shorter than in the earlier run")
            size -= read


class _HashingFile:
    """A raw file that is read once from start to end; reading updates its sha256 and the progress bar."""

    def __init__(self, file: IO[bytes], bar: Bar) -> None:
        self._file = file
        self._bar = bar
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        return self._count(self._file.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._count(self._file.readline(size))

    def _count(self, data: bytes) -> bytes:
        self.digest.update(data)
        self._bar.update(len(data))
        return data


def read_head(path: Path) -> bytes:
    """Return the first 64 KiB of the unzipped file."""
    try:
        with path.open("rb") as file:
            return _unzip(file, path).read(_HEAD)
    except _CORRUPT as error:
        raise GraphFileError(path, f"corrupt or cut-off compressed file ({error}); fetch the file again") from error
    except OSError as error:
        raise _explain_unreadable(path, error) from error


def _unzip(file: IO[bytes], path: Path) -> IO[bytes]:
    """Unzip a file whose first bytes say gzip or bzip2; raise GraphFileError for other compression formats."""
    with path.open("rb") as start:
        magic = start.read(4)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic in _OTHER:
        raise GraphFileError(path, f"is compressed with {_OTHER[magic]}; unpack it, or compress it with gzip")
    return file


def _explain_unreadable(path: Path, error: OSError) -> GraphFileError:
    """Return the error for a file that is missing, or that the system can't read."""
    if isinstance(error, FileNotFoundError):
        return GraphFileError(path, "does not exist; check the path")
    return GraphFileError(path, f"cannot be read ({error})")


class Batch(NamedTuple):
    """Triples to store, and their counts."""

    triples: tuple[bytes, ...]  # N-Triples in `PARTS` parts
    names: bytes  # the lines with a literal: texts, dates and quantities
    weights: bytes  # pairs of little-endian int64: the number of an id (negative for properties), and of its statements
    triple_count: int
    statements: int  # number of truthy item-valued statements
    content_hash: int  # `hash_lines` of the triples
    probe: str  # one of the triples
    end: int  # position after the batch, in bytes of the unzipped file
    lines: int  # position after the batch, in lines


def make_batches(chunks: Iterator[Chunk], translate: LineTranslator) -> Iterator[Batch]:
    """Translate the chunks; yield batches of about 400,000 triples, or of 512 MiB of input if it has fewer triples."""
    kept: list[bytes] = []
    size = 0  # bytes of kept lines
    read = 0  # bytes of input
    chunk = None
    for chunk in chunks:
        translated = translate(chunk.lines, chunk.first)
        # Repeated lines of one chunk count once; `load` recounts if lines of different chunks are equal.
        if len(set(translated)) == len(translated):
            kept += translated
        else:
            kept += dict.fromkeys(translated)
        size += sum(map(len, translated))
        read += len(chunk.lines)
        if size >= _KEPT or read >= _READ:
            yield _make_batch(kept, chunk)
            kept = []
            size = 0
            read = 0
    if chunk is not None:  # the file is not empty; without kept lines, the batch only has the position of its end
        yield _make_batch(kept, chunk)


def _make_batch(kept: list[bytes], chunk: Chunk) -> Batch:
    """Return the batch of the lines `kept`, the last of which come from `chunk`."""
    literals = [line + b"\n" for line in kept if b'"' in line]
    numbers = statement_numbers(kept)  # [statements, 3]: subject, property, object
    lines_per_part = max(1, ceil(len(kept) / PARTS))
    parts = []
    for start in range(0, len(kept), lines_per_part):
        parts.append(b"\n".join(kept[start : start + lines_per_part]))
    return Batch(
        triples=tuple(parts),
        names=b"".join(literals),
        weights=_count_statements_per_id(numbers),
        triple_count=len(kept),
        statements=len(numbers),
        content_hash=hash_lines(kept),
        probe=_choose_probe(kept),
        end=chunk.end,
        lines=chunk.first - 1 + chunk.lines.count(b"\n"),
    )


def _count_statements_per_id(numbers: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> bytes:
    """Count how many statements contain each id: int64 [ids, 2] of id and count, as bytes; a property has a minus.

    `numbers` [statements, 3] are subject, property and object of each statement.
    """
    import numpy as np  # takes a tenth of a second; sources import this module too

    items, item_counts = np.unique(numbers[:, (0, 2)], return_counts=True)
    properties, property_counts = np.unique(numbers[:, 1], return_counts=True)
    ids = np.concatenate([items, -properties])
    counts = np.concatenate([item_counts, property_counts])
    return np.column_stack([ids, counts]).astype("<i8").tobytes()


def _choose_probe(lines: Sequence[bytes]) -> str:
    """Return the first line in the second half that is short enough, or an empty text."""
    for number in range(len(lines) // 2, len(lines)):
        if len(lines[number]) < _LONGEST_PROBE:
            return lines[number].decode()
    return ""


def hash_lines(lines: Sequence[bytes]) -> int:
    """Return the content hash of lines: the sum of their BLAKE2b-128 hashes modulo 2^128.

    The sum does not depend on the order of the lines, and is additive over disjoint sets of lines.
    """
    return sum([int.from_bytes(blake2b(line, digest_size=16).digest(), "little") for line in lines]) % _MODULUS


def add_hashes(one: int, other: int) -> int:
    """Return the content hash of the union of two disjoint sets of lines, given the content hash of each."""
    return (one + other) % _MODULUS


def read_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield the same items; a thread produces the next item while the caller uses the current one."""
    # The engine releases the GIL while it stores a batch, so that the next one is read meanwhile.
    with ThreadPoolExecutor(1) as thread:
        item = next(items, None)
        while item is not None:
            coming = thread.submit(next, items, None)
            yield item
            item = coming.result()
