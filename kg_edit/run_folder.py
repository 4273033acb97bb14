"""Whose an output folder is: ``run.json`` holds all that decides a result; a run goes on only with the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kg_edit.errors import OutputError
from kg_edit.files import write_json

Settings = dict[str, Any]


def claim(folder: Path, settings: Settings) -> None:
    """Write ``run.json`` into a folder without one, or check that it holds the same settings.

    Raises:
        OutputError: the folder belongs to another run, holds files of something else, or can't be written.
    """
    if (folder / "run.json").exists():
        found = difference(read_settings(folder), json.loads(json.dumps(settings)))
        if found:
            raise OutputError(
                f"{folder} holds another run ({found}); give another --out, or delete {folder} to start anew"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty and holds no run of ours; give another --out")
    write_json(folder / "run.json", settings)


def read_settings(folder: Path) -> Settings:
    """What `claim` wrote.

    Raises:
        OutputError: the folder holds no run that can be read.
    """
    file = folder / "run.json"
    try:
        found: Settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder} holds no run: can't read {file}; give another folder") from error
    return found


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def difference(there: Any, here: Any, name: str = "") -> str | None:
    """Name the first field that differs, and both its values; None if there is none."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*here, *there])
        found = (difference(there.get(key), here.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, found), None)
    return None if there == here else f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
