"""Files of rows: JSONL, JSON, CSV and TSV in UTF-8, read row by row; a row that can't be read says why.

This is the raw reading that files of edits share; what the fields of a row mean is for the caller. A table's header
says what separates its columns: the usual separator of the ending, or where the header lacks it ``,``, ``;`` or a tab.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wikidata_cache.errors import EditRowError
from wikidata_cache.safe_json import parse

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
_USUAL_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LARGEST = 500_000_000  # bytes of a file, all of which is read at once
_MOST_VALUES = 20_000_000  # of a JSON file
_QUOTES = "close the quotes around a cell, and double those inside it"

HeaderCheck = Callable[[Sequence[str]], str | None]


class RowFault(NamedTuple):
    """Why a row could not be read; `field` is empty where no single field is at fault."""

    field: str
    message: str


class RawRow(NamedTuple):
    """A row as it stands in its file.

    `line` is the row's first line, from 1; in .json, where lines mean nothing, the place in the list. `value` is a JSON
    value, of a table {column: cell} without empty cells, or the fault that kept the row from being read.
    """

    line: int
    value: object | RowFault


def raw_rows(path: Path, *, expected: str = "a file", header_fault: HeaderCheck | None = None) -> list[RawRow]:
    """The rows of a file in its order, blank ones left out.

    `expected` is what the file should be, for messages. `header_fault` says what is wrong with the columns of a table,
    or None where nothing is.

    Raises:
        EditRowError: the file can't be read at all; names the line.
    """
    if path.is_dir():
        raise EditRowError(path, f"is a folder; expected {expected}, give the path of one in it")
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise EditRowError(path, f"ends in {suffix!r}; expected {expected} in {', '.join(SUFFIXES)}")
    try:
        text = _decoded(path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error, row=_row_at(path, error, header_fault)) from None
    return list(_rows(path, text, header_fault))


def utf8_text(path: Path) -> str:
    """The text of a file that a person wrote, without its byte order mark.

    Raises:
        EditRowError: it can't be read, or is not UTF-8; names the line and the byte.
    """
    try:
        return _decoded(path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _decoded(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise EditRowError(path, f"has {size / 1e6:,.0f} MB; at most {_LARGEST / 1e6:g} MB are read, so split it")
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise EditRowError(path, f"no such file; check the path, seen from {Path.cwd()}") from None
    except OSError as error:
        raise EditRowError(path, f"cannot be read: {error.strerror}") from error


def _not_utf8(path: Path, error: UnicodeDecodeError, *, row: int | None = None) -> EditRowError:
    line = error.object.count(b"\n", 0, error.start) + 1
    found = f"found the byte 0x{error.object[error.start]:02x}, which is not UTF-8"
    place = f"line {line}, byte offset {error.start}"
    return EditRowError(path, f"{found}; save the file as UTF-8", row=row, place=place)


def _row_at(path: Path, error: UnicodeDecodeError, header_fault: HeaderCheck | None) -> int | None:
    """The number of the row in which the file stops being UTF-8; None in .json, and in a table's header."""
    if path.suffix.lower() == ".json":
        return None
    before = error.object[: error.start].decode("utf-8").removeprefix("\ufeff") + "?"
    try:
        return sum(1 for _ in _rows(path, before, header_fault)) or None
    except EditRowError:  # the header is cut off
        return None


def _rows(path: Path, text: str, header_fault: HeaderCheck | None) -> Iterable[RawRow]:
    suffix = path.suffix.lower()
    if suffix in _USUAL_SEPARATORS:
        return _table(path, text, _separator(text, _USUAL_SEPARATORS[suffix]), header_fault)
    return _json_list(path, text) if suffix == ".json" else _json_lines(text)


def _json_lines(text: str) -> Iterator[RawRow]:
    # Not splitlines(): JSON texts may hold U+2028 and its like.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield RawRow(number, _json_line(line))


def _json_line(line: str) -> object:
    try:
        return _parsed(line)
    except json.JSONDecodeError as error:
        found = f"not JSON, column {error.colno}: {error.msg}"
        return RowFault("", f"{found}; expected one whole object {{...}} on the line")


def _json_list(path: Path, text: str) -> list[RawRow]:
    if not text.strip():
        return []
    try:
        found = _parsed(text)
    except json.JSONDecodeError as error:
        expected = "one list of objects; a file with an object a line is named .jsonl"
        problem = f"not JSON: {error.msg}; expected {expected}"
        raise EditRowError(path, problem, place=f"line {error.lineno}, column {error.colno}") from None
    rows = found if isinstance(found, list) else [found]
    return [RawRow(number, row) for number, row in enumerate(rows, 1)]


def _parsed(text: str) -> object:
    """A JSON value; an object in which a name stands twice, however deep, makes the whole object a `RowFault`."""
    try:
        return parse(text, most=_MOST_VALUES, pairs=_object)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a number of 5000 digits, a list in a list in a list ...
        raise json.JSONDecodeError(str(error), text, 0) from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | RowFault:
    found: dict[str, object] = {}
    for name, value in pairs:
        if fault := next(_faults(name, value), None):
            return fault
        if name in found:
            return RowFault(name, "stands there twice; keep one")
        found[name] = value
    return found


def _faults(place: str, value: object) -> Iterator[RowFault]:
    """The faults of the objects in a value, which are parsed already, with their place in it."""
    if isinstance(value, RowFault):
        yield RowFault(f"{place}.{value.field}", value.message)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _faults(f"{place}[{number}]", entry)


def _separator(text: str, usual: str) -> str:
    """What separates a table's columns: the usual separator, or where that is not in its header one that is."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return next((separator for separator in (usual, ",", ";", "\t") if separator in header), usual)


def _table(path: Path, text: str, separator: str, header_fault: HeaderCheck | None) -> Iterator[RawRow]:
    rows = _cells(text, separator)
    line, header = next(rows, (0, None))
    if header is None:
        return
    problem = header.message if isinstance(header, RowFault) else header_fault(header) if header_fault else None
    if isinstance(header, RowFault) or problem is not None:
        raise EditRowError(path, str(problem), place=f"line {line}")
    for line, cells in rows:
        yield RawRow(line, cells if isinstance(cells, RowFault) else _table_row(header, cells))


def _cells(text: str, separator: str) -> Iterator[tuple[int, list[str] | RowFault]]:
    """The rows of a table with the first line of each, as a cell in quotes may hold several."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        number = lines.line_num + 1
        try:
            cells = [cell.strip() for cell in next(lines)]
        except StopIteration:
            return
        except csv.Error as error:
            yield number, RowFault("", f"not a row of a table: {error}; {_QUOTES}")
            if "field larger" in str(error):  # an open quote: what follows is no row either
                return
        else:
            if any(cells):
                yield number, cells


def _table_row(header: Sequence[str], cells: Sequence[str]) -> dict[str, str] | RowFault:
    if len(cells) != len(header):
        found = f"found {len(cells)} cells; expected {len(header)}, one for each column"
        return RowFault("", f"{found}; put a cell that holds the separator in double quotes")
    return {name: cell for name, cell in zip(header, cells, strict=True) if cell}
