"""Files as rows: JSONL, JSON, CSV and TSV, each row with its number, and with why it could not be read."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from kg_edit.edits.rows import FIELDS
from kg_edit.edits.templates import utf8_text
from kg_edit.errors import EditError, EditFileError, Fault, did_you_mean

# The number of a row and what it holds: any JSON value, or why it could not be read.
NumberedRow = tuple[int, object]


def unit_of(path: Path) -> str:
    """What a row's number counts: lines, or in .json, where lines mean nothing, places in the list."""
    return "record" if path.suffix.lower() == ".json" else "line"


def numbered_rows(path: Path) -> Iterable[NumberedRow]:
    """The rows of a file with their numbers; a row that can't be read comes as an `EditError`.

    Raises:
        EditFileError: the file can't be read at all, or its header is wrong.
    """
    if path.is_dir():
        raise EditFileError(f"{path}: is a folder; expected a file, give the path of one in it")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise EditFileError(f"{path}: ends in {path.suffix!r}; expected a file in {', '.join(_READERS)}")
    return reader(path, utf8_text(path))


def _json_lines(path: Path, text: str) -> Iterator[NumberedRow]:
    # Not splitlines(): JSON texts may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _json_line(line)


def _json_line(line: str) -> object:
    try:
        return _parsed(line)
    except json.JSONDecodeError as error:
        found = f"not JSON, column {error.colno}: {error.msg}"
        return EditError([Fault("", f"{found}; expected one whole object {{...}} on the line")])


def _json_list(path: Path, text: str) -> Iterable[NumberedRow]:
    if not text.strip():
        return []
    try:
        rows = _parsed(text)
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}, column {error.colno}"
        expected = "one list of objects; a file with an object a line is named .jsonl"
        raise EditFileError(f"{place}: not JSON: {error.msg}; expected {expected}") from None
    return enumerate(rows if isinstance(rows, list) else [rows], 1)


def _parsed(text: str) -> object:
    """A JSON value; where a name stands twice in an object, the whole of the row that it is in is an `EditError`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, a list in a list in a list ...
        raise json.JSONDecodeError(str(error), text, 0) from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | EditError:
    found: dict[str, object] = {}
    for name, value in pairs:
        if fault := next(_faults(name, value), None):
            return EditError([fault])
        if name in found:
            return EditError([Fault(name, "stands there twice; keep one")])
        found[name] = value
    return found


def _faults(place: str, value: object) -> Iterator[Fault]:
    """What is wrong in the objects of a value, which are parsed already."""
    if isinstance(value, EditError):
        yield from (Fault(f"{place}.{field}", message) for field, message in value.faults)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _faults(f"{place}[{number}]", entry)


def _table(path: Path, text: str, *, delimiter: str) -> Iterator[NumberedRow]:
    rows = _cells(text, delimiter)
    number, header = next(rows, (0, None))
    if header is None:
        return
    if isinstance(header, EditError):
        raise EditFileError(f"{path}, line {number}: {header}")
    _check_header(header, f"{path}, line {number}")
    for number, cells in rows:
        yield number, cells if isinstance(cells, EditError) else _table_row(header, cells)


def _cells(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | EditError]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = lines.line_num + 1  # the row's first line, as a cell in quotes may hold several
        try:
            cells = [cell.strip() for cell in next(lines)]
        except StopIteration:
            return
        except csv.Error as error:
            way_out = "close the quotes around a cell, and double those inside it"
            yield number, EditError([Fault("", f"not a row of a table: {error}; {way_out}")])
        else:
            if any(cells):
                yield number, cells


_SHAPES = (
    ("subject", "prompt", "target_new"),
    ("subject", "relation", "new_object"),
    ("subject", "prompt", "new_object"),
)
_LISTS = ("paraphrases", "neighborhood")
_COLUMNS = tuple(name for name in FIELDS if name != "portability")  # its questions have fields of their own


def _check_header(header: Sequence[str], place: str) -> None:
    if unknown := [name for name in header if name not in _COLUMNS]:
        near = did_you_mean(unknown[0], _COLUMNS)
        raise EditFileError(f"{place}: unknown column {unknown[0]!r}{near}; known: {', '.join(_COLUMNS)}")
    if len(set(header)) < len(header):
        raise EditFileError(f"{place}: a column stands there twice: {', '.join(header)}; keep one of each")
    lacking = min(([name for name in shape if name not in header] for shape in _SHAPES), key=len)
    if lacking:
        shapes = " or ".join(", ".join(shape) for shape in _SHAPES[:2])
        raise EditFileError(f"{place}: lacks the column {lacking[0]!r}; expected at least {shapes}")


def _table_row(header: Sequence[str], cells: Sequence[str]) -> object:
    if len(cells) != len(header):
        found = f"found {len(cells)} cells; expected {len(header)}, one for each column"
        return EditError([Fault("", f"{found}; put a cell that holds the separator in double quotes")])
    filled = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    return {name: _entries(cell) if name in _LISTS else cell for name, cell in filled.items()}


def _entries(cell: str) -> list[str]:
    return [entry.strip() for entry in cell.split(" | ")]


_READERS: Mapping[str, Callable[[Path, str], Iterable[NumberedRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
