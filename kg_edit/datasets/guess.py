"""Which benchmark a file holds, where nobody says."""

from __future__ import annotations

from pathlib import Path

from kg_edit.datasets import DATASETS
from kg_edit.datasets.reading import Dataset
from kg_edit.errors import EditFileError

_ROWS = 20
# The ones that ask for more come first: each record of CounterFactPlus is one of CounterFact too.
_ORDER = ("counterfact-plus", "counterfact", *(name for name in DATASETS if name != "edits"), "edits")


def guess_dataset(path: Path) -> Dataset:
    """The benchmark of which the first rows of a file have the fewest faults.

    Raises:
        EditFileError: the file can't be read, or no row can be read as a record of any benchmark.
    """
    found = {name: DATASETS[name].read(path, limit=_ROWS) for name in dict.fromkeys(_ORDER)}
    best = max(found, key=lambda name: len(found[name].records))
    if not found[best].records:
        raise EditFileError(f"{path}: holds records of no benchmark that is known; say which with --dataset")
    return DATASETS[best]
