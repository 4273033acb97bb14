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
    except (OSError, UnicodeDecodeError) as error:
        raise EditRowError(path, f"cannot be read ({error}); expected a file of edits in UTF-8") from error
    if suffix in (".csv", ".tsv"):
        return _table(path, text, "," if suffix == ".csv" else "\t")
    return _list(path, text) if suffix == ".json" else _lines(path, text)


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
