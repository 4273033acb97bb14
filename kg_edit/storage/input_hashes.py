"""The files that settings name, by what is in them: a path says nothing of that."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.config import JsonDict

NAMES_A_FILE: JsonDict = {"names_a_file": True}
"""``json_schema_extra`` of a setting that names a file or a folder."""


def input_files(config: BaseModel) -> dict[str, str]:
    """The SHA-256 of each file that ``config`` names, by setting; a folder's is of its files' names and contents.

    What is on no disk here (a hub's name, a word such as ``self``) is left out.
    """
    return {name: _digest(path) for name, path in _named(config, "") if path.exists()}


def _named(config: BaseModel, prefix: str) -> Iterator[tuple[str, Path]]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _named(value, f"{prefix}{name}.")
        elif isinstance(value, str) and field.json_schema_extra == NAMES_A_FILE:
            yield f"{prefix}{name}", Path(value)


def _digest(path: Path) -> str:
    if path.is_file():
        return _of_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = "".join(f"{_of_file(file)} {file.relative_to(path).as_posix()}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
