"""Resolve the paths that a user gives: a ledger, a patch file, or a folder with one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kg_edit.errors import OutputError
from kg_edit.ledger.entries import Entry, entries_of
from kg_edit.ledger.listing import Listing
from kg_edit.ledger.log import LOG, open_store
from kg_edit.patches.changes import read_changes
from kg_edit.patches.container import check_patch_file
from kg_edit.storage.run_folder import PATCH

if TYPE_CHECKING:  # paths are checked without importing torch
    from kg_edit.ledger.ledger import Addition, Ledger
    from kg_edit.patches.base import Patch


def check_patches(paths: Iterable[Path], *, ledgers: bool = True) -> None:
    """Check the patch files, folders of `kg-edit edit` and ledgers that a user names, without torch.

    Raises:
        PatchError: a path has neither a patch nor a ledger, or has a ledger and ``ledgers`` is false.
        OutputError: a path has something else, or can't be read.
    """
    for path in paths:
        file = patch_file(path)
        if file is None and ledgers and path.is_dir():
            open_store(path, create=False)
        else:
            check_patch_file(file or path)


def standing_at(path: str | Path) -> tuple[Patch, tuple[Entry, ...]]:
    """The patch and the edits of a ledger, of a patch file, or of a folder of `kg-edit edit`.

    Raises:
        PatchError: there is neither, or the patch does not say what its edits are.
        OutputError: something else is at this path, or it can't be read.
    """
    from kg_edit.ledger.ledger import Ledger
    from kg_edit.patches.base import Patch

    if file := patch_file(Path(path)):
        patch = Patch.load(file)
        return patch, entries_of(patch)
    ledger = Ledger.open(path, create=False)
    return ledger.patch, tuple(entry for entry in ledger.edits if entry.state == "standing")


def standing_entries(path: Path) -> tuple[Entry, ...]:
    """The edits of `standing_at`, without torch and without the patch.

    Raises:
        PatchError: there is neither a patch nor a ledger, or the patch does not say what its edits are.
        OutputError: something else is at this path, or it can't be read.
    """
    if file := patch_file(path):
        return entries_of(read_changes(file))
    return tuple(entry for entry in Listing.open(path).edits if entry.state == "standing")


def additions(paths: Iterable[Path]) -> tuple[Addition, ...]:
    """The additions for the patch files and ledgers that a user names.

    Raises:
        PatchError: a folder has no ledger.
        OutputError: something else is at a path, or it can't be read.
    """
    from kg_edit.ledger.ledger import Addition, Ledger

    found: list[Addition] = []
    for path in paths:
        file = patch_file(path)
        if file is None and path.is_dir():
            found += _steps_of(Ledger.open(path, create=False), first=len(found))
        else:
            found.append(Addition(path=file or path))
    return tuple(found)


def _steps_of(ledger: Ledger, *, first: int = 0) -> tuple[Addition, ...]:
    """The standing steps of a ledger as additions; the first one has the index ``first``."""
    from kg_edit.ledger.ledger import Addition

    steps = ledger.steps
    places = {step.number: place for place, step in enumerate(steps, first)}
    return tuple(
        Addition(path=ledger.file(step), after=tuple(places[number] for number in step.after if number in places))
        for step in steps
    )


def patch_file(path: Path) -> Path | None:
    """The patch file that a path stands for; None for a ledger, even if its folder has a patch too.

    Raises:
        OutputError: the path can't be read.
    """
    if _is_file(path):
        return path
    return path / PATCH if _is_file(path / PATCH) and not _is_file(path / LOG) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # the name is too long, or a folder is not readable
        raise OutputError(f"can't read {path}: {error.strerror}; check the path") from error
