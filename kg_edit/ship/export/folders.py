"""The new folder of an export: it is written completely or not at all, and has the patch's provenance and a card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kg_edit.errors import OutputError
from kg_edit.patches.provenance import ORIGIN
from kg_edit.storage.atomic import let_others_read, write_json, write_text
from kg_edit.storage.run_folder import check_folder

CARD = "README.md"


def check_new(folder: Path) -> Path:
    """Check that a folder is missing or empty, and that another can take its place; return its path without links."""
    target = Path(os.path.realpath(folder))
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(f"{folder} already exists; give another folder, or delete it first")
        check_folder(target)
        if target == Path.cwd() or target.is_mount():
            raise OutputError(
                f"{folder} is the current folder or a mount point, which can't be replaced; give a new folder in it"
            )
    except OSError as error:
        raise OutputError(f"can't write {folder}: {error.strerror}; choose another folder") from error
    return target


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` at the end of the block, or deleted after an error."""
    target = check_new(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield scratch
            let_others_read(scratch)
            scratch.replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"can't write {folder}: {error.strerror or error}; choose another folder") from error


def write_notes(folder: Path, provenance: Mapping[str, Any], card: str | None) -> None:
    """Write the provenance of a patch into the folder of its export, and the model card if there is one."""
    write_json(folder / ORIGIN, dict(provenance))
    if card is not None:
        write_text(folder / CARD, card)
