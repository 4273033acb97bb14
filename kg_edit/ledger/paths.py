"""The paths that a user gives (a ledger, a patch file, or a folder with one), and what a ledger adds of them."""

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

if TYPE_CHECKING:  # a path is looked at before anything heavy is imported
    from kg_edit.ledger.ledger import Addition, Ledger
    from kg_edit.patches.base import Patch


def check_patches(paths: Iterable[Path], *, ledgers: bool = True) -> None:
    """Look at patch files, folders of `kg-edit edit` and ledgers that a user names, without torch.

    Raises:
        PatchError: there is no patch at a path, and no ledger, or none may be there.
        OutputError: something else is there, or a path can't be read.
    """
    for path in paths:
        file = patch_file(path)
        if file is None and ledgers and path.is_dir():
            open_store(path, create=False)
        else:
            check_patch_file(file or path)


def standing_at(path: str | Path) -> tuple[Patch, tuple[Entry, ...]]:
    """What stands in a ledger, or is in a single patch file or a folder of `kg-edit edit`: the patch and its edits.

    Raises:
        PatchError: neither is there, or the patch does not say what its edits are.
        OutputError: something else is there, or the path can't be read.
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
        PatchError: no patch is there, and no ledger, or the patch does not say what its edits are.
        OutputError: something else is there, or the path can't be read.
    """
    if file := patch_file(path):
        return entries_of(read_changes(file))
    return tuple(entry for entry in Listing.open(path).edits if entry.state == "standing")


def additions(paths: Iterable[Path]) -> tuple[Addition, ...]:
    """What is to be added where a user names patch files and ledgers.

    Raises:
        PatchError: there is no ledger at a folder.
        OutputError: something else is there, or a path can't be read.
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
    """The steps that stand, as additions of which the first one has the place ``first``."""
    from kg_edit.ledger.ledger import Addition

    steps = ledger.steps
    places = {step.number: place for place, step in enumerate(steps, first)}
    return tuple(
        Addition(path=ledger.file(step), after=tuple(places[number] for number in step.after if number in places))
        for step in steps
    )


def patch_file(path: Path) -> Path | None:
    """The single patch that a path stands for; None for a ledger, also one with a patch beside its log.

    Raises:
        OutputError: the path can't be read.
    """
    if _is_file(path):
        return path
    return path / PATCH if _is_file(path / PATCH) and not _is_file(path / LOG) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise OutputError(f"can't read {path}: {error.strerror}; check the path") from error
