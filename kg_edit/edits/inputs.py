"""The door of every call that takes edits: `as_edits` accepts an edit, edits, rows of fields, or the path of a file."""

from __future__ import annotations

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


def as_edits(given: Edits) -> tuple[Edit, ...]:
    """Return the edits that a caller gives."""
    if isinstance(given, Edit):
        return (given,)
    if isinstance(given, (list, tuple)) and given and all(isinstance(row, Edit) for row in given):
        return tuple(given)
    from kg_edit.edits.files import EditFile, read_edits
    from kg_edit.edits.templates import RelationTemplates

    match given:
        case EditFile(edits=edits) if edits:
            return edits
        case EditFile():
            raise EditError([Fault("", f"no row of the file is an edit; {_EXPECTED}")])
        case str() if " " in given.strip() and not Path(given).suffix:  # a sentence, and no path
            raise EditError([Fault("", f"found {describe(given)}; {_EXPECTED}")])
        case str() | Path():
            return read_edits(given).edits
        case Mapping():
            return (_from_row(given, RelationTemplates.load()),)
    other: object = given
    if isinstance(other, BaseModel) or not isinstance(other, Iterable):  # pydantic's models can be iterated too
        raise EditError([Fault("", f"found {describe(other)}; {_EXPECTED}")])
    templates = RelationTemplates.load()
    result = list[Edit]()
    for number, row in enumerate(given, 1):
        try:
            edit = row if isinstance(row, Edit) else _from_row(row, templates)
        except EditError as error:
            raise EditError(Fault("", f"edit {number}: {fault}") for fault in error.faults) from None
        result.append(edit)
    if not result:
        raise EditError([Fault("", f"found no edits; {_EXPECTED}")])
    return tuple(result)


def _from_row(row: Row, templates: RelationTemplates) -> Edit:
    from kg_edit.edits.rows import to_edit

    if not isinstance(row, Mapping):
        raise EditError([Fault("", f"found {describe(row)}; {_EXPECTED}")])
    return to_edit(row, labels={}, templates=templates)
