"""Refusals as tables: what is called, the class of its error, and the keyword in its message that helps the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Call = Callable[[Path], object]
"""A mistake: it is called with an empty folder of its own."""


def refusals(rows: Mapping[str, tuple[Call, type[Exception], str]]) -> pytest.MarkDecorator:
    """The rows of a table for a test with the arguments ``call``, ``error`` and ``keyword``."""
    cases = [pytest.param(*row, id=mistake) for mistake, row in rows.items()]
    return pytest.mark.parametrize(("call", "error", "keyword"), cases)


def check_refused(call: Call, folder: Path, error: type[Exception], keyword: str) -> None:
    """The call raises exactly this class of error, and its message contains the keyword."""
    with pytest.raises(error) as raised:
        call(folder)
    assert raised.type is error, raised.type
    assert keyword in str(raised.value)


def put(folder: Path, name: str, content: str | bytes = "") -> Path:
    """A file with this content in the folder."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
