"""Read files of edits (JSONL, JSON, CSV or TSV, one edit per row) into `EditRow`s with labels and Wikidata ids.

A row has the fields subject, relation, target_true and target_new, each with an id field such as subject_id. The field
names of triplet files (object, new_object) and the `requested_rewrite` records of CounterFact are accepted too.
"edits.jsonl:3" means the third row of a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kg_common.ids import bare_id, is_item, is_property
from kg_common.rows import SUFFIXES, TRIPLET_NAMES, RowFault, raw_rows
from wikidata_cache.errors import EditRowError

_EXAMPLE = '{"subject": "Spike Hughes", "relation": "place of birth", "target_new": "Philadelphia"}'
_ROW = re.compile(r"(?P<file>.+):(?P<row>[0-9]+)")
# Fields of kg-edit's edit files. They are ignored here, and are not misspelt fields, although some look like one.
_FOREIGN = ("id", "prompt", "paraphrases", "neighborhood", "portability")


@dataclass(frozen=True, kw_only=True)
class EditRow:
    """One edit (subject, relation, target_true -> target_new): labels, and Wikidata ids where they are known.

    `row` is the number of the row, from 1. Blank lines and the header of a table do not count.
    """

    row: int
    subject: str
    target_new: str
    relation: str | None = None
    target_true: str | None = None
    subject_id: str | None = None
    relation_id: str | None = None
    target_new_id: str | None = None
    target_true_id: str | None = None


_FIELDS = tuple(field.name for field in fields(EditRow) if field.name != "row")

_KNOWN = (*_FIELDS, *TRIPLET_NAMES)


def read_edits(file: str | Path) -> list[EditRow]:
    """Return the edits of a file, in order; for "edits.jsonl:3", return its third row only.

    A row has the fields subject, relation, target_true, target_new (or object, new_object), which have labels or ids,
    and subject_id, relation_id, target_true_id, target_new_id. It may also be a record of CounterFact
    (`requested_rewrite`). Other fields are ignored.
    """
    path, only_row = _split(str(file))
    rows = list(enumerate(json_rows(path), 1))
    if only_row is not None and not 1 <= only_row <= len(rows):
        raise EditRowError(path, f"there is no such row; the file has {len(rows)} rows, counted from 1", row=only_row)
    if not rows:
        raise EditRowError(path, f"has no rows; expected one edit per row, such as {_EXAMPLE}")
    return [_read_edit(path, number, row) for number, row in rows if only_row in (None, number)]


def is_edit_file(text: str) -> bool:
    """Return whether a text names a file of edits, or one of its rows such as "edits.jsonl:3" (not an id)."""
    return _split(text)[0].suffix.lower() in SUFFIXES


def file_of(file: str | Path) -> Path:
    """Return the path without the row number: edits.jsonl for "edits.jsonl:3"."""
    return _split(str(file))[0]


def _split(text: str) -> tuple[Path, int | None]:
    match = _ROW.fullmatch(text)
    if match is None or Path(text).exists():
        return Path(text), None
    return Path(match["file"]), int(match["row"])


def _read_edit(path: Path, number: int, row: object) -> EditRow:
    """Check one row; a problem is an EditRowError that names the row and the field."""
    if not isinstance(row, Mapping):
        problem = f"found {type(row).__name__}; expected an object {{...}} of fields"
        raise EditRowError(path, problem, row=number)
    rewrite = row.get("requested_rewrite")
    if isinstance(rewrite, Mapping):
        row = _flatten(rewrite)
    texts: dict[str, str] = {}
    try:
        for name, value in row.items():
            _add_text(texts, name, value)
        _move_ids(texts)
        _check_fields(texts)
    except _FieldError as error:
        raise EditRowError(path, error.problem, row=number, field=error.field) from None
    return EditRow(row=number, **texts)


class _FieldError(Exception):
    """A field of a row is missing or has a wrong value."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


def _flatten(rewrite: Mapping[str, Any]) -> dict[str, object]:
    """Return the row of a record of CounterFact, which has the texts and ids of its objects one level below."""
    row: dict[str, object] = {}
    for name in ("subject", "subject_id", "relation", "relation_id"):
        row[name] = rewrite.get(name)
    for name in ("target_new", "target_true"):
        target = rewrite.get(name)
        if isinstance(target, Mapping):
            row[name] = target.get("str")
            row[f"{name}_id"] = target.get("id")
        else:
            row[name] = target
    return row


def _add_text(texts: dict[str, str], name: str, value: object) -> None:
    """Add the value of a column to `texts`, under the name of its field.

    Other columns are ignored, unless they look like a misspelt field.
    """
    if name not in _KNOWN and name not in _FOREIGN:
        near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.85)
        if near:
            raise _FieldError(name, f"unknown; did you mean {near[0]!r}?")
        return
    field = TRIPLET_NAMES.get(name, name)
    if field not in _FIELDS or value is None:
        return
    if not isinstance(value, str) or not value.strip():
        raise _FieldError(name, f"found {value!r}; expected a text")
    text = bare_id(value.strip())
    if texts.setdefault(field, text) != text:
        problem = f"found {text!r}, but the same field has {texts[field]!r} under its other name; keep one"
        raise _FieldError(name, problem)


def _move_ids(texts: dict[str, str]) -> None:
    """Move ids in label fields to id fields; a subject or object with an id but no label gets the id as its label."""
    for field in ("subject", "target_true", "target_new"):
        if is_item(texts.get(field, "")):
            texts.setdefault(f"{field}_id", texts[field])
        elif f"{field}_id" in texts:
            texts.setdefault(field, texts[f"{field}_id"])
    if is_property(texts.get("relation", "")):
        texts.setdefault("relation_id", texts.pop("relation"))


def _check_fields(texts: Mapping[str, str]) -> None:
    for field in ("subject", "target_new"):
        if field not in texts:
            raise _FieldError(field, f"is missing; expected a label, and the id in {field}_id where you know it")
    for field, text in texts.items():
        if field == "relation_id":
            if not is_property(text):
                raise _FieldError(field, f"found {text!r}; expected an id such as P19")
        elif field.endswith("_id") and not is_item(text):
            raise _FieldError(field, f"found {text!r}; expected an id such as Q42")


def json_rows(path: Path) -> list[object]:
    """Return the rows of a file without checking their fields; blank lines are skipped.

    A row is a JSON value, or for a table {column: cell} without empty cells.
    """
    rows = raw_rows(path, expected="a file of edits")
    for number, row in enumerate(rows, 1):
        if isinstance(row.value, RowFault):
            raise EditRowError(path, row.value.message, row=number, field=row.value.field or None)
    return [row.value for row in rows]
