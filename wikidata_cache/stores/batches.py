"""From a file to batches of triples that are ready for the database, read ahead in a thread of their own."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import numpy as np

from wikidata_cache.stores.chunks import Chunk
from wikidata_cache.stores.lines import statement_numbers
from wikidata_cache.stores.ntriples import Translate

PARTS = 2  # of a batch, added at the same time
_KEPT = 48 << 20  # bytes of kept lines in a batch: about 400,000 triples
_READ = 512 << 20  # bytes read for one, however little was kept
_MODULUS = 1 << 128

Item = TypeVar("Item")


class Batch(NamedTuple):
    """Triples as N-Triples in a few parts, what is to be known of them, and where in the file the next batch starts.

    `names` are those of the lines that hold texts, `weights` pairs of a number of an id (negative for properties)
    and how many statements it is in.
    """

    triples: tuple[bytes, ...]
    names: bytes
    weights: bytes
    kept: int
    statements: int
    content_hash: int
    probe: str
    end: int
    lines: int


def batches(chunks: Iterator[Chunk], translate: Translate) -> Iterator[Batch]:
    """The kept lines of the chunks, many chunks in one batch where little is kept."""
    kept: list[bytes] = []
    size = read = 0
    chunk = None
    for chunk in chunks:
        found = translate(chunk.lines, chunk.first)
        kept += found if len(set(found)) == len(found) else dict.fromkeys(found)
        size += sum(map(len, found))
        read += len(chunk.lines)
        if size >= _KEPT or read >= _READ:
            yield _batch(kept, chunk)
            kept, size, read = [], 0, 0
    if chunk is not None:
        yield _batch(kept, chunk)


def content_hash(lines: Sequence[bytes]) -> int:
    """The same for the same set of lines in any order; hashes of disjoint sets add up (`added`)."""
    return sum([int.from_bytes(blake2b(line, digest_size=16).digest(), "little") for line in lines]) % _MODULUS


def added(one: int, other: int) -> int:
    """The content hash of two disjoint sets of lines."""
    return (one + other) % _MODULUS


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items, each made in a thread while the one before is being used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _batch(kept: list[bytes], chunk: Chunk) -> Batch:
    texts = [line for line in kept if b'"' in line]
    numbers = statement_numbers(kept)
    return Batch(
        triples=tuple(b"\n".join(part) for part in _parts(kept)),
        names=b"".join([line + b"\n" for line in texts]),
        weights=_weights(numbers),
        kept=len(kept),
        statements=len(numbers),
        content_hash=content_hash(kept),
        probe=kept[len(kept) // 2].decode() if kept else "",
        end=chunk.end,
        lines=chunk.first - 1 + chunk.lines.count(b"\n"),
    )


def _parts(kept: list[bytes]) -> Iterator[list[bytes]]:
    size = -(-len(kept) // PARTS) or 1
    return (kept[start : start + size] for start in range(0, len(kept), size))


def _weights(numbers: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> bytes:
    items, of_items = np.unique(numbers[:, (0, 2)], return_counts=True)
    properties, of_properties = np.unique(numbers[:, 1], return_counts=True)
    ids, counts = np.concatenate([items, -properties]), np.concatenate([of_items, of_properties])
    return np.column_stack([ids, counts]).astype("<i8").tobytes()
