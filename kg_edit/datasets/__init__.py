"""Benchmarks by name, each read from its published file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kg_edit.datasets import counterfact
from kg_edit.edits import Edit
from kg_edit.errors import unknown_name


class Loader(Protocol):
    """Reads the records of a benchmark, the first ``limit`` of them (None: all)."""

    def __call__(self, path: Path, *, limit: int | None = None) -> tuple[Edit, ...]:
        """The records in the file's order."""


DATASETS: Mapping[str, Loader] = {"counterfact": counterfact.load, "counterfact-plus": counterfact.load_plus}


def find_dataset(name: str) -> Loader:
    """The loader of a benchmark.

    Raises:
        UnknownNameError: there is none of this name; suggests the nearest.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return DATASETS[name]
