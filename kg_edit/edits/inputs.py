"""The door of every call that takes edits: `as_edits` accepts an edit, edits, rows of fields, or the path of a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydantic import BaseModel

from kg_edit.edits.edit import Edit
from kg_edit.errors import EditError, Fault, describe

if TYPE_CHECKING:  # an `Edit` needs no reader of files
    from kg_edit.edits.files import EditFile
    from kg_edit.edits.templates import RelationTemplates

Row = Mapping[str, object]
Edits: TypeAlias = "Edit | EditFile | Row | str | Path | Iterable[Edit | Row]"
"""One edit or several; a row is what a line of a file of edits has, such as ``{"subject": …, "prompt": …}``."""

_EXPECTED = "expected an Edit, a list of edits, or the path of a file of them"


def as_edits(edits: Edits) -> tuple[Edit, ...]:
    """Return the edits that a caller gives, in any of the forms of `Edits`."""
    if isinstance(edits, Edit):
        return (edits,)
    if isinstance(edits, (list, tuple)) and edits and all(isinstance(row, Edit) for row in edits):
        return tuple(edits)
    from kg_edit.edits.files import EditFile, read_edits
    from kg_edit.edits.templates import RelationTemplates

    if isinstance(edits, EditFile):
        if not edits.edits:
            raise _refusal("no row of the file is an edit")
        return edits.edits
    if isinstance(edits, str) and _is_sentence(edits):
        raise _refusal(f"found {describe(edits)}")
    if isinstance(edits, str | Path):
        return read_edits(edits).edits
    if isinstance(edits, Mapping):
        return (_from_row(edits, RelationTemplates.load()),)
    other: object = edits  # for the type checker, to which nothing but an iterable is left here
    if isinstance(other, BaseModel) or not isinstance(other, Iterable):  # pydantic's models can be iterated too
        raise _refusal(f"found {describe(other)}")
    result = _from_rows(edits, RelationTemplates.load())
    if not result:
        raise _refusal("found no edits")
    return tuple(result)


def _is_sentence(text: str) -> bool:
    """Return whether a text is a sentence such as "J. K. Rowling lives in", and not a path such as "my edits.jsonl"."""
    suffix = Path(text).suffix  # of this sentence ". Rowling lives in"
    is_ending = suffix != "" and " " not in suffix
    return " " in text.strip() and not is_ending and not os.path.exists(text)  # noqa: PTH110 - never raises


def _refusal(found: str) -> EditError:
    """Return the error for something else in the place of edits."""
    return EditError([Fault("", f"{found}; {_EXPECTED}")])


def _from_rows(rows: Iterable[Edit | Row], templates: RelationTemplates) -> list[Edit]:
    """Return the edits of rows; a fault names the number of its row, from 1."""
    edits = list[Edit]()
    for number, row in enumerate(rows, 1):
        try:
            edit = row if isinstance(row, Edit) else _from_row(row, templates)
        except EditError as error:
            raise EditError(Fault("", f"edit {number}: {fault}") for fault in error.faults) from None
        edits.append(edit)
    return edits


def _from_row(row: Row, templates: RelationTemplates) -> Edit:
    """Return the edit of one row."""
    from kg_edit.edits.rows import to_edit

    if not isinstance(row, Mapping):
        raise _refusal(f"found {describe(row)}")
    return to_edit(row, labels={}, templates=templates)
