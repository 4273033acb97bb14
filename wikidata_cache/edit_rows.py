"""The raw rows of a file: JSONL, JSON, CSV or TSV."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from wikidata_cache.errors import EditRowError

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
