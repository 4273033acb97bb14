"""Read files of rows (JSONL, JSON, CSV and TSV in UTF-8); a row that cannot be read becomes a `RowFault`.

All readers of edit files share this module. It does not interpret the fields of a row; the caller does. The separator
of a table's columns is the usual one for the file ending. If the header does not contain that separator, the module
tries ``,``, ``;`` and a tab. The texts in the fields of a row are given in the form NFC: macOS may write a letter and
its accent as two characters, which look the same, but differ from the names of a graph and take more tokens.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kg_common.errors import EditRowError
from kg_common.json_text import parse

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
SUBJECT_COLUMNS = frozenset({"head", "subject", "source", "from", "node1", "h", "s"})  # in the header of a graph
# Name of a field of an edit (s, r, o -> o*) in a row that is a triplet -> its name in the code of both packages
TRIPLET_NAMES = {
    "object": "target_true",
    "object_id": "target_true_id",
    "new_object": "target_new",
    "new_object_id": "target_new_id",
}
_USUAL_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LARGEST = 500_000_000  # bytes; the whole file is read at once
_MOST_VALUES = 20_000_000  # JSON values in one text
_BAR = re.compile(r"(?:^|(?<=\s))\|(?=\s|$)")  # " | " between two entries, of which the first or the last may be empty
_QUOTES = "close the quotes around each cell, and write a quote inside a cell twice"

HeaderCheck = Callable[[Sequence[str]], str | None]


class RowFault(NamedTuple):
    """The reason why a row could not be read. `field` is empty where no single field is wrong."""

    field: str
    message: str


class RawRow(NamedTuple):
    """A row of a file, before its fields are interpreted.

    `line` is the number of the row's first line, from 1; in a .json file, it is the position in the list, from 1.
    `value` is a JSON value, or for a table {column: cell} without empty cells, or a `RowFault` for an unreadable row.
    """

    line: int
    value: object | RowFault


def raw_rows(path: Path, *, expected: str = "a file", header_fault: HeaderCheck | None = None) -> list[RawRow]:
    """Return the rows of a file in order, without blank lines.

    Args:
        path: the file; its ending is the format.
        expected: a description of the file for error messages.
        header_fault: is called with the columns of a table that have a name, and returns what is wrong with them, or
            None.

    Returns:
        The rows; a row that cannot be read has a `RowFault` as its value.
    """
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it never raises
        raise EditRowError(path, f"is a folder; expected {expected}; give the path of a file in this folder")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        fault = f"ends in {suffix!r}" if os.path.exists(path) else "no such file"  # noqa: PTH110
        raise EditRowError(path, f"{fault}; expected {expected} in {', '.join(SUFFIXES)}")
    try:
        text = _decode_file(path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error, row=_row_of_byte(path, error, header_fault)) from None
    return list(_parse_rows(path, text, header_fault))


def _row_of_byte(path: Path, error: UnicodeDecodeError, header_fault: HeaderCheck | None) -> int | None:
    """Return the number of the row with the first byte that is not UTF-8; None if it is in no row, or in a .json file.

    The text up to this byte is parsed, with a "?" in the byte's place, which makes a row of an otherwise blank line.
    The byte is in the last row of this text, so the number of rows is the number of that row.
    """
    if path.suffix.lower() == ".json":
        return None
    before = error.object[: error.start].decode("utf-8").removeprefix("\ufeff")
    try:
        rows = list(_parse_rows(path, before + "?", header_fault))
    except EditRowError:  # the byte is in the header of a table, which is now cut off
        return None
    return len(rows) or None


def utf8_text(path: Path) -> str:
    """Return the text of a UTF-8 file without its byte order mark."""
    try:
        return _decode_file(path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _decode_file(path: Path) -> str:
    """Return the text of a file without its byte order mark; one that is not UTF-8 raises UnicodeDecodeError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:  # a pipe or a device has no size, and perhaps no end
            data = file.read(_LARGEST + 1) if size <= _LARGEST else b""
        size = max(size, len(data))
        if size > _LARGEST:
            raise EditRowError(path, f"has {size / 1e6:,.0f} MB; at most {_LARGEST / 1e6:g} MB are read, so split it")
        return data.decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise EditRowError(path, f"no such file; check the path (the current folder is {Path.cwd()})") from None
    except OSError as error:
        raise EditRowError(path, f"cannot be read: {error.strerror}") from error


def _not_utf8(path: Path, error: UnicodeDecodeError, *, row: int | None = None) -> EditRowError:
    """Return the error for a file that is not UTF-8; ``row`` is the row of its first wrong byte, if that is known."""
    line = error.object.count(b"\n", 0, error.start) + 1
    message = f"found the byte 0x{error.object[error.start]:02x}, which is not UTF-8"
    position = f"line {line}, byte offset {error.start}"
    return EditRowError(path, f"{message}; save the file as UTF-8", row=row, position=position)


def _parse_rows(path: Path, text: str, header_fault: HeaderCheck | None) -> Iterator[RawRow]:
    """Yield the rows of a text in the format that the file's ending names."""
    suffix = path.suffix.lower()
    if suffix in _USUAL_SEPARATORS:
        separator = _find_separator(text, usual=_USUAL_SEPARATORS[suffix])
        yield from _parse_table(path, text, separator, header_fault)
    elif suffix == ".jsonl":
        yield from _parse_json_lines(text)
    else:
        yield from _parse_json_list(path, text)


def _parse_json_lines(text: str) -> Iterator[RawRow]:
    """Yield the rows of a .jsonl file; a line that is not JSON is a row with a fault."""
    # splitlines() would also split at U+2028 and similar characters, which JSON strings may contain.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = _parse_json(line)
        except json.JSONDecodeError as error:
            message = f"not JSON, column {error.colno}: {error.msg}"
            value = RowFault("", f"{message}; expected one whole object {{...}} on the line")
        yield RawRow(number, value)


def _parse_json_list(path: Path, text: str) -> Iterator[RawRow]:
    """Yield the rows of a .json file: the entries of its list, or the one object that it is."""
    if not text.strip():
        return
    try:
        content = _parse_json(text)
    except json.JSONDecodeError as error:
        expected = "one list of objects; for one object per line, name the file .jsonl"
        problem = f"not JSON: {error.msg}; expected {expected}"
        raise EditRowError(path, problem, position=f"line {error.lineno}, column {error.colno}") from None
    rows = content if isinstance(content, list) else [content]
    for number, row in enumerate(rows, 1):
        yield RawRow(number, row)


def _find_separator(text: str, *, usual: str) -> str:
    """Return the usual separator if the first line that is not blank has it, else the first other one that it has."""
    lines = [line for line in text.splitlines() if line.strip()]
    header = lines[0] if lines else ""
    for separator in (usual, ",", ";", "\t"):
        if separator in header:
            return separator
    return usual


def _parse_json(text: str) -> object:
    """Parse a JSON text. An object with a duplicate name, at any depth, makes the outermost object a `RowFault`.

    `json` builds the inner objects first, each with `_read_object`. A fault in one of them is a value of the next
    outer object, which becomes a fault too, with its own name in front:

        {"a": [{"b": 1, "b": 2}]}  -> RowFault("a[0].b", "occurs twice; keep one")
    """
    try:
        return parse(text, most=_MOST_VALUES, pairs=_read_object)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a number of 5000 digits, or too deep nesting
        raise json.JSONDecodeError(str(error), text, 0) from None


def _read_object(pairs: list[tuple[str, object]]) -> dict[str, object] | RowFault:
    """Return the object with these fields and values, or the fault of a name that occurs twice, here or further in."""
    fields: dict[str, object] = {}
    for name, value in pairs:
        faults = list(_find_faults(name, value))
        if faults:
            return faults[0]
        if name in fields:
            return RowFault(name, "occurs twice; keep one")
        fields[name] = _compose(value)
    return fields


def _compose(value: object) -> object:
    """Return a text, or the texts of a list, in the form NFC; `_read_object` has done so inside of an object."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [_compose(entry) for entry in value]
    return value


def _find_faults(field: str, value: object) -> Iterator[RowFault]:
    """Yield the `RowFault`s inside a parsed value, each with its place (such as "name[2].field") as `field`."""
    if isinstance(value, RowFault):
        yield RowFault(f"{field}.{value.field}", value.message)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _find_faults(f"{field}[{number}]", entry)


def _parse_table(path: Path, text: str, separator: str, header_fault: HeaderCheck | None) -> Iterator[RawRow]:
    """Yield the rows of a table behind its header, each as {column: cell}."""
    rows = table_rows(io.StringIO(text, newline=""), separator)
    line, header = next(rows, (0, None))
    if header is None:
        return
    problem = header.message if isinstance(header, RowFault) else _header_problem(header, header_fault)
    if problem:
        raise EditRowError(path, problem, position=f"line {line}")
    for line, cells in rows:
        if isinstance(cells, RowFault):
            yield RawRow(line, cells)
        else:
            yield RawRow(line, _cells_by_column(header, cells))


def _header_problem(header: Sequence[str], header_fault: HeaderCheck | None) -> str | None:
    """Return what is wrong with the header of a table, or None; ``header_fault`` is the caller's check."""
    named = [name for name in header if name]  # a spreadsheet may have several empty columns, which have no name
    problem = header_fault(named) if header_fault else None
    if problem:
        return problem
    for name in named:
        if named.count(name) > 1:
            return f"the column {name!r} occurs twice; keep one"
    return None


def _cells_by_column(header: Sequence[str], cells: Sequence[str]) -> dict[str, str] | RowFault:
    """Return the cells of a row that are not empty, by column, or the fault of a row that does not fit the header."""
    if len(cells) != len(header):
        message = f"found {len(cells)} cells; expected {len(header)}, one for each column"
        return RowFault("", f"{message}; put a cell that contains the separator in double quotes")
    by_column = {}
    for name, cell in zip(header, cells, strict=True):
        if cell and not name:
            message = f"found {cell!r} in a column without a name"
            return RowFault("", f"{message}; name the column in the header, or empty the cell")
        if cell:
            by_column[name] = cell
    return by_column


def entries(cell: str) -> list[str]:
    """Return the entries of a table's cell, which " | " separates; one may be empty."""
    return [entry.strip() for entry in _BAR.split(cell)]


def table_rows(text: Iterable[str], separator: str) -> Iterator[tuple[int, list[str] | RowFault]]:
    """Yield (number of the first line, cells) for each row of a table, without blank rows.

    `text` are the lines with their ends; a quoted cell may span several of them. The cells have no white space around
    them; an unreadable row is a `RowFault`.
    """
    lines = csv.reader(text, delimiter=separator, strict=True)
    while True:
        number = lines.line_num + 1
        try:
            cells = [unicodedata.normalize("NFC", cell.strip()) for cell in next(lines)]
        except StopIteration:
            return
        except csv.Error as error:
            message = f"not a row of a table: {error}; {_QUOTES}"
            if "field larger" in str(error):
                # Above csv's limit: probably a quote that was never closed. Where the next row begins is not known.
                longer = "a text that is really longer needs a .jsonl file"
                yield number, RowFault("", f"{message}; {longer}; the rows behind this one are not read")
                return
            yield number, RowFault("", message)
        else:
            if any(cells):
                yield number, cells
