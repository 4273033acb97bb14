"""Which benchmark a file holds, where nobody says."""

from __future__ import annotations

from pathlib import Path

from kg_edit.datasets import known_datasets
from kg_edit.datasets.reading import Dataset
from kg_edit.errors import EditFileError

_ROWS = 20


def guess_dataset(path: Path) -> Dataset:
    """The benchmark that reads most of the first rows of a file; of equals the one that declares higher precedence.

    Raises:
        EditFileError: the file can't be read, or no row can be read as a record of any benchmark.
    """
    known = known_datasets()
    found = {name: len(dataset.read(path, limit=_ROWS).records) for name, dataset in known.items()}
    best = max(found, key=lambda name: (found[name], known[name].precedence))
    if not found[best]:
        raise EditFileError(f"{path}: holds records of no benchmark that is known; say which with --dataset")
    return known[best]
