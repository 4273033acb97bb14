"""Edits as rows of a file, read for their subgraphs: JSONL, JSON, CSV and TSV.

The raw rows of a file: JSONL, JSON, CSV or TSV.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from wikidata_cache.errors import EditRowError
from wikidata_cache.ids import is_item, is_property

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


def raw_rows(path: Path) -> Iterable[object]:
    """Each row as JSON gives it; of a table, the filled cells by column. Blank lines are no rows.

    Raises EditRowError where the file cannot be read, or a row is not JSON or does not fit the header.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise EditRowError(path, f"ends in {suffix!r}; expected a file of edits in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EditRowError(path, f"cannot be read ({error}); expected a file of edits in UTF-8") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    if suffix in (".csv", ".tsv"):
        return _table(path, text, _separator(text, usual="," if suffix == ".csv" else "\t"))
    return _list(path, text) if suffix == ".json" else _lines(path, text)


def _not_utf8(path: Path, error: UnicodeDecodeError) -> EditRowError:
    """The error for a byte that is no UTF-8, with the row that it stands in (of a .json file the line)."""
    before = error.object[: error.start].decode() + "?"
    found = f"cannot be read (byte 0x{error.object[error.start]:02x} is no UTF-8)"
    number = sum(bool(line.strip()) for line in before.split("\n"))
    if path.suffix.lower() in (".csv", ".tsv"):
        reader = csv.reader(io.StringIO(before, newline=""), delimiter=_separator(before, usual=","))
        number = sum(any(map(str.strip, cells)) for cells in reader) - 1  # the header is no row
    is_row = path.suffix.lower() != ".json" and number > 0
    where = "" if is_row else f" in line {before.count(chr(10)) + 1}"
    problem = f"{found}{where}; save the file as UTF-8"
    return EditRowError(path, problem, row=number if is_row else None)


def _separator(text: str, *, usual: str) -> str:
    """What separates a table's columns: the usual separator, or where that is not in its header one that is."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return next((separator for separator in (usual, ",", ";", "\t") if separator in header), usual)


def _lines(path: Path, text: str) -> Iterator[object]:
    # Not splitlines(): JSON texts may hold U+2028 and its like.
    for number, line in enumerate((line for line in text.split("\n") if line.strip()), 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EditRowError(path, f"is not JSON ({error}); expected one object {{...}} a line", row=number) from None


def _list(path: Path, text: str) -> list[object]:
    try:
        found = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise EditRowError(path, f"is not JSON ({error}); expected a list of objects") from None
    return found if isinstance(found, list) else [found]


def _table(path: Path, text: str, delimiter: str) -> Iterator[object]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header, number = None, 0
    try:
        for cells in ([cell.strip() for cell in row] for row in rows):
            if not any(cells):
                continue
            if header is None:
                header = cells
                continue
            number += 1
            if len(cells) != len(header):
                problem = f"found {len(cells)} cells; expected {len(header)}. Put a cell with the separator in quotes"
                raise EditRowError(path, problem, row=number)
            yield {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    except csv.Error as error:
        problem = f"is no row of a table ({error}); close the quotes around a cell, and double those inside it"
        raise EditRowError(path, problem, row=number + 1) from None


# What triplets call the fields.
_OTHER_NAMES = {
    "object": "target_true",
    "object_id": "target_true_id",
    "new_object": "target_new",
    "new_object_id": "target_new_id",
}
_ADDRESS = re.compile(r"https?://www\.wikidata\.org/(?:entity|wiki|prop/direct)/(?:Property:)?([QP][0-9]+)")
_EXAMPLE = '{"subject": "Spike Hughes", "relation": "place of birth", "target_new": "Philadelphia"}'
_ROW = re.compile(r"(?P<file>.+):(?P<row>[0-9]+)")


@dataclass(frozen=True, kw_only=True)
class EditRow:
    """The edit (subject, relation, target_true -> target_new) of row `row` of a file, counted from 1.

    In a table the header is no row; blank lines are none either.
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
_KNOWN = (*_FIELDS, *_OTHER_NAMES)
_FOREIGN = ("id", "prompt", "paraphrases", "neighborhood", "portability")


def read_edits(place: str | Path) -> list[EditRow]:
    """The edits of a file, in order; "edits.jsonl:3" is its third row alone.

    Rows have the fields subject, relation, target_true, target_new (or object, new_object, as labels or ids)
    and subject_id, relation_id, target_true_id, target_new_id, or are records of CounterFact
    (`requested_rewrite`). Other fields are passed over. Raises EditRowError, which names file, row and field.
    """
    path, wanted = _split(str(place))
    rows = list(enumerate(raw_rows(path), 1))
    if wanted is not None and not 1 <= wanted <= len(rows):
        raise EditRowError(path, f"there is no such row; the file has {len(rows)}, counted from 1", row=wanted)
    if not rows:
        raise EditRowError(path, f"holds no rows; expected one edit a row, such as {_EXAMPLE}")
    return [_edit(path, number, row) for number, row in rows if wanted in (None, number)]


def is_edit_file(place: str) -> bool:
    """Whether a text names a file of edits, or a row of one, and no id."""
    return _split(place)[0].suffix.lower() in SUFFIXES


def file_of(place: str | Path) -> Path:
    """The file of a place such as "edits.jsonl:3"."""
    return _split(str(place))[0]


def _split(place: str) -> tuple[Path, int | None]:
    found = _ROW.fullmatch(place)
    if found is None or Path(place).exists():
        return Path(place), None
    return Path(found["file"]), int(found["row"])


def _edit(path: Path, number: int, row: object) -> EditRow:
    def refuse(problem: str, field: str | None = None) -> EditRowError:
        return EditRowError(path, problem, row=number, field=field)

    if not isinstance(row, Mapping):
        raise refuse(f"found {type(row).__name__}; expected an object {{...}} of fields")
    found: dict[str, str] = {}
    for name, value in _flat(row).items():
        if near := _misspelt(name):
            raise refuse(f"unknown; did you mean {near!r}?", name)
        field = _OTHER_NAMES.get(name, name)
        if field in _FIELDS and value is not None:
            if not (isinstance(value, str) and value.strip()):
                raise refuse(f"found {value!r}; expected a text", name)
            address = _ADDRESS.fullmatch(value.strip())
            found[field] = address[1] if address else value.strip()
    _move_ids(found)
    for field in ("subject", "target_new"):
        if field not in found:
            raise refuse(f"is missing; expected a label, and the id in {field}_id where you know it", field)
    for field, value in found.items():
        fits = is_property if field == "relation_id" else is_item
        if field.endswith("_id") and not fits(value):
            raise refuse(f"found {value!r}; expected an id such as {'P19' if fits is is_property else 'Q42'}", field)
    return EditRow(row=number, **found)


def _flat(row: Mapping[str, object]) -> Mapping[str, object]:
    """A record of CounterFact under our own names; any other row as it is."""
    rewrite = row.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        return row
    flat = {name: rewrite.get(name) for name in ("subject", "subject_id", "relation", "relation_id")}
    for name in ("target_new", "target_true"):
        target = rewrite.get(name)
        parts = target if isinstance(target, Mapping) else {"str": target}
        flat |= {name: parts.get("str"), f"{name}_id": parts.get("id")}
    return flat


def _misspelt(name: str) -> str | None:
    """The known field that a name was likely meant to be; others are another tool's business."""
    if name in _KNOWN or name in _FOREIGN:
        return None
    return next(iter(difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.85)), None)


def _move_ids(found: dict[str, str]) -> None:
    """An id where a label may stand is the field's id; an id without a label stands for it."""
    for field in ("subject", "target_true", "target_new"):
        if is_item(found.get(field, "")):
            found.setdefault(f"{field}_id", found[field])
        elif f"{field}_id" in found:
            found.setdefault(field, found[f"{field}_id"])
    if is_property(found.get("relation", "")):
        found.setdefault("relation_id", found.pop("relation"))
