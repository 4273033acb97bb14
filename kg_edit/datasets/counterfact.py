"""CounterFact (Meng et al. 2022) and CounterFactPlus (Yao et al. 2023), which adds a portability question a record."""

from __future__ import annotations

from pathlib import Path

from kg_edit.edit_files import read_edits
from kg_edit.edits import Edit
from kg_edit.errors import EditFileError


def load(path: Path, *, limit: int | None = None) -> tuple[Edit, ...]:
    """The records of a CounterFact file, the first ``limit`` of them (None: all).

    Raises:
        EditFileError: the file can't be read, or a record is wrong; names it.
    """
    # each record is edited alone, so that two of them may give one fact different targets
    return read_edits(path, allow_conflicts=True).edits[:limit]


def load_plus(path: Path, *, limit: int | None = None) -> tuple[Edit, ...]:
    """The records of a CounterFactPlus file: as `load`, each with its portability question.

    Raises:
        EditFileError: as for `load`, or a record has no question.
    """
    edits = load(path, limit=limit)
    bare = next((edit for edit in edits if not edit.portability), None)
    if bare:
        raise EditFileError(
            f"{path}, record {bare.id!r}: has no portability question; expected one in each record of "
            "CounterFactPlus. Read a file without questions as 'counterfact'"
        )
    return edits
