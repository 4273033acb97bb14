"""What a benchmark's file holds: JSON, JSON lines, or a data set of a hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kg_edit.edits.templates import utf8_text
from kg_edit.errors import EditFileError

HUB = "hf:"


def every_row(document: object) -> Iterable[object]:
    """The rows of a list; a single object is one row."""
    return document if isinstance(document, list) else [document]


def document(path: Path) -> object:
    """The JSON that a file, or a hub data set ``hf:NAME[:CONFIG[:SPLIT]]``, holds; JSON lines become a list.

    Raises:
        EditFileError: it can't be read.
    """
    if str(path).startswith(HUB):
        return _from_hub(str(path).removeprefix(HUB))
    if path.is_dir():
        raise EditFileError(f"{path}: is a folder; give the path of a file in it")
    text = utf8_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = enumerate(text.split("\n"), 1)  # not splitlines(): JSON texts may hold U+2028
        if error.msg != "Extra data":
            raise EditFileError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
        return [_line(path, number, line) for number, line in lines if line.strip()]


def _line(path: Path, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise EditFileError(f"{path}, line {number}, column {error.colno}: not JSON: {error.msg}") from None


def _from_hub(name: str) -> list[object]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise EditFileError(
            f"{HUB}{name}: a data set from a hub needs the package datasets: pip install 'kg-edit[hf]'"
        ) from error
    dataset, config, split = (*name.split(":"), "", "")[:3]
    try:
        rows = load_dataset(dataset, config or None, split=split or "train")
    except Exception as error:  # the library raises errors of many libraries below it
        raise EditFileError(
            f"{HUB}{name}: can't be loaded: {error}; expected {HUB}NAME[:CONFIG[:SPLIT]], the split being train "
            "where none is given"
        ) from error
    return [_without_null(dict(row)) for row in rows]


def _without_null(value: Any) -> Any:
    """A hub's table gives each row each field; what the row did not have is null there."""
    if isinstance(value, dict):
        return {name: _without_null(part) for name, part in value.items() if part is not None}
    return [_without_null(part) for part in value] if isinstance(value, Sequence) and _is_list(value) else value


def _is_list(value: Sequence[Any]) -> bool:
    return not isinstance(value, str | bytes)
