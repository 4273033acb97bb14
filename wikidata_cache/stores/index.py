"""The label index of a store and its counts, from what was spooled while the triples were loaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wikidata_cache.labels.label_index import LabelCounts, LabelEntry, build_label_index
from wikidata_cache.stores.lines import names

_BLOCK = 1 << 20  # pairs
_COMMON = 1 << 28  # above the number of every item there is


class IdCounts(NamedTuple):
    """How many items and properties there are in statements."""

    items: int
    properties: int


def index_names(path: Path, spooled: Path, weights: Path) -> LabelCounts:
    """Write the label index; raises LabelIndexError where it cannot be written."""
    return build_label_index(path, _entries(spooled), weights=_weights(weights))


def count_ids(weights: Path) -> IdCounts:
    """The distinct ids of the spool, in bounded memory: a byte for each number that an item has."""
    common = np.zeros(_COMMON, dtype=np.bool_)
    rare: set[int] = set()
    properties: set[int] = set()
    top = 0
    for pairs in _pairs(weights):
        ids = pairs[:, 0]
        top = max(top, int(ids.max()) + 1)
        properties.update(ids[ids < 0].tolist())
        common[ids[(ids >= 0) & (ids < _COMMON)]] = True
        rare.update(ids[ids >= _COMMON].tolist())
    return IdCounts(int(np.count_nonzero(common[:top])) + len(rare), len(properties))


def _entries(spooled: Path) -> Iterator[LabelEntry]:
    with spooled.open("rb") as file:
        yield from map(LabelEntry._make, names(line.removesuffix(b"\n") for line in file))


def _weights(path: Path) -> Iterator[tuple[str, int]]:
    for pairs in _pairs(path):
        for number, count in pairs.tolist():
            yield f"P{-number}" if number < 0 else f"Q{number}", count


def _pairs(path: Path) -> Iterator["np.ndarray[tuple[int, int], np.dtype[np.int64]]"]:
    with path.open("rb") as file:
        while block := file.read(16 * _BLOCK):
            yield np.frombuffer(block, dtype="<i8").reshape(-1, 2)
