"""Errors that a user can put right, and the words for what pydantic expected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_EXPECTED = {  # by pydantic's name of the fault
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 18 digits",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "more than {gt}",
    "less_than": "less than {lt}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def expected_of(fault: Mapping[str, Any]) -> str:
    """Return in plain words what pydantic expected; ``fault`` is one of its `ErrorDetails`."""
    kind = fault["type"]
    if kind == "too_long" and isinstance(fault["input"], str):
        # A text that a validator saw before the check has the fault of a list, "too_long".
        kind = "string_too_long"
    words = _EXPECTED.get(kind)
    if words is None:
        return str(fault["msg"]).removeprefix("Input should be ")
    return words.format(**fault.get("ctx", {}))


class SharedError(Exception):
    """Base class of every error that kg_common and wikidata_cache raise on purpose; kg_edit's own is `KgEditError`."""


class BadOptionError(SharedError, ValueError):
    """An argument has a bad value: for example it is outside its range, or is not an id where an id is required."""


class EntityLookupError(SharedError, LookupError):
    """A graph can't find an entity of one edit, which says nothing about other edits."""


class EditRowError(SharedError, ValueError):
    """A file of edits cannot be read, or a row is not a valid edit, or the graph cannot resolve the edit of a row.

    The message names the file, the row (or the `position` in the text, such as "line 3") and the field.
    """

    def __init__(
        self,
        path: Path,
        problem: str,
        *,
        row: int | None = None,
        field: str | None = None,
        position: str | None = None,
    ) -> None:
        place = [str(path)]
        if row is not None:
            place.append(f"row {row}")
        elif position:
            place.append(position)
        if field:
            place.append(f"field {field}")
        super().__init__(f"{', '.join(place)}: {problem}")
        self.problem = problem
        self.position = position
        self.row = row
        self.field = field
