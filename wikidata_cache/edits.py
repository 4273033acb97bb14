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
    (`requested_rewrite`). Other fields are ignored, but one whose name looks like a misspelt field is refused.
    """
    path, only_row = _split(str(file))
    rows = list(enumerate(read_rows(path), 1))
    if only_row is not None and not 1 <= only_row <= len(rows):
        raise EditRowError(path, f"there is no such row; the file has {len(rows)} rows, counted from 1", row=only_row)
    if not rows:
        raise EditRowError(path, f"has no rows; expected one edit per row, such as {_EXAMPLE}")
    if only_row is not None:
        rows = [rows[only_row - 1]]
    return [_read_edit(path, number, row) for number, row in rows]


def is_edit_file(text: str) -> bool:
    """Return whether a text names a file of edits, or one of its rows such as "edits.jsonl:3" (not an id)."""
    return _split(text)[0].suffix.lower() in SUFFIXES


def strip_row(file: str | Path) -> Path:
    """Return the path without the row number: edits.jsonl for "edits.jsonl:3"."""
    return _split(str(file))[0]


def _split(text: str) -> tuple[Path, int | None]:
    """Return the path and the row number of "edits.jsonl:3"; None if it has none, or a file has this whole name."""
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
        for column, value in row.items():
            field = _find_field(column)
            if field is not None and value is not None:
                _add_text(texts, field, column, value)
        _fill_ids(texts)
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


def _find_field(column: str) -> str | None:
    """Return the field that a column stands for: "target_new" for "new_object"; None for a column that is ignored.

    A column that looks like a misspelt field is refused.
    """
    if column in _FOREIGN:
        return None
    if column in _KNOWN:
        return TRIPLET_NAMES.get(column, column)
    near = difflib.get_close_matches(column, _KNOWN, n=1, cutoff=0.85)
    if near:
        raise _FieldError(column, f"unknown; did you mean {near[0]!r}?")
    return None


def _add_text(texts: dict[str, str], field: str, column: str, value: object) -> None:
    """Add the text of a column to `texts`, under the name of its field; refuse another text for the same field."""
    if not isinstance(value, str) or not value.strip():
        raise _FieldError(column, f"found {value!r}; expected a text")
    text = bare_id(value.strip())
    if field in texts and texts[field] != text:
        problem = f"found {text!r}, but the same field has {texts[field]!r} under its other name; keep one"
        raise _FieldError(column, problem)
    texts[field] = text


def _fill_ids(texts: dict[str, str]) -> None:
    """Fill the id fields from ids that stand in label fields, and missing labels from ids.

        the row has                         afterwards
        subject "Q42", no subject_id        subject_id is "Q42", and subject stays
        subject_id "Q42", no subject        subject is "Q42", too
        subject "Q1000", subject_id "Q90"   both stay, and the id counts
        relation "P19", no relation_id      relation_id is "P19", and relation is gone
        relation "P19", relation_id "P20"   refused

    The objects are filled like the subject. Two ids of an item are not refused: `wikidata-cache link` writes them where
    the first item was merged into the second one.
    """
    for field in ("subject", "target_true", "target_new"):
        if is_item(texts.get(field, "")):
            texts.setdefault(f"{field}_id", texts[field])
        elif f"{field}_id" in texts:
            texts.setdefault(field, texts[f"{field}_id"])
    if is_property(texts.get("relation", "")):
        own_id = texts.pop("relation")
        if texts.setdefault("relation_id", own_id) != own_id:
            problem = f"found {own_id!r}, but relation_id is {texts['relation_id']!r}; keep one"
            raise _FieldError("relation", problem)


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


def read_rows(path: Path) -> list[object]:
    """Return the rows of a file without checking their fields; blank lines are skipped.

    A row is a JSON value, or for a table {column: cell} without empty cells.
    """
    rows = raw_rows(path, expected="a file of edits")
    for number, row in enumerate(rows, 1):
        if isinstance(row.value, RowFault):
            raise EditRowError(path, row.value.message, row=number, field=row.value.field or None)
    return [row.value for row in rows]
