"""Fields that settings share: a seed, and a setting that names a file, whose content counts and not its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field
from pydantic.config import JsonDict

LARGEST = 2**40  # torch's generators take 64 bits, and some callers add up to a million to a seed

Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]

NAMES_A_FILE: JsonDict = {"names_a_file": True}
"""``json_schema_extra`` of a setting that names a file or a folder."""


def input_files(config: BaseModel) -> dict[str, str]:
    """Return the SHA-256 of each file that ``config`` names, by setting; of a folder, that of its names and contents.

    Names that are no path on this disk (a hub's name, a word such as ``self``) are left out.
    """
    hashes = {}
    for name, path in _find_paths(config, ""):
        if path.is_dir():
            hashes[name] = _hash_folder(path)
        elif path.exists():
            hashes[name] = hash_file(path)
    return hashes


def _find_paths(config: BaseModel, prefix: str) -> Iterator[tuple[str, Path]]:
    """Yield each setting that names a file or a folder, also in groups, and its path; ``prefix`` is the group's."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _find_paths(value, f"{prefix}{name}.")
        elif isinstance(value, str) and field.json_schema_extra == NAMES_A_FILE:
            yield f"{prefix}{name}", Path(value)


def _hash_folder(folder: Path) -> str:
    """Return the SHA-256 of the list of a folder's files, each with its hash and its path in the folder."""
    listed = ""
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        listed += f"{hash_file(file)} {file.relative_to(folder).as_posix()}\n"
    return hashlib.sha256(listed.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
