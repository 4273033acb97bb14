"""Files of JSON lines that only grow: a line is there in whole or not at all, also after a kill or on a full disk.

`append_lines` writes, `read_lines` reads lines as pydantic records, `drop_cut_line` repairs a file after a kill.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from kg_edit.errors import OutputError

Line = TypeVar("Line", bound=BaseModel)


def append_lines(file: Path, lines: Iterable[str]) -> None:
    """Add lines to a file in one write; when this returns, they are on the disk.

    Raises:
        OutputError: they can't be written; the file is as it was.
    """
    data = "".join(line + "\n" for line in lines).encode()
    try:
        with file.open("ab", buffering=0) as handle:
            before = handle.tell()
            try:
                if (written := handle.write(data)) < len(data):
                    handle.write(data[written:])  # a full disk takes a part, and refuses the rest
                os.fsync(handle.fileno())
            except OSError:
                with suppress(OSError):  # what is cut off here is a line without its end, else dropped later
                    handle.truncate(before)
                raise
    except OSError as error:
        raise OutputError(
            f"can't write {file}: {error.strerror}; make room, and start again: what is there is kept"
        ) from error


def drop_cut_line(file: Path) -> None:
    """Cut off the file's last line if it has no line break at its end: a kill interrupted its writing."""
    data = file.read_bytes() if file.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(file, whole)


def read_lines(path: Path, kind: type[Line]) -> Iterator[Line]:
    """The whole lines of a file; none where there is no file.

    Raises:
        OutputError: a line is none of this ``kind``.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        whole = (line for line in file if line.endswith("\n"))
        for number, line in enumerate(whole, 1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                message = f"{path}, line {number}: no record; delete the line, and it is found again"
                raise OutputError(message) from error
