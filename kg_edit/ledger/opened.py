"""What a user names: a ledger's folder, or a single patch file; and one ledger put into another."""

from __future__ import annotations

from pathlib import Path

from kg_edit.errors import OutputError
from kg_edit.language_model import LanguageModel
from kg_edit.ledger.entries import Entry, entries_of
from kg_edit.ledger.ledger import Ledger
from kg_edit.patch import Patch


def standing_at(path: str | Path) -> tuple[Patch, tuple[Entry, ...]]:
    """What stands in a ledger, or is in a single patch file: the patch and its edits.

    Raises:
        PatchError: neither is there, or the patch does not say what its edits are.
        OutputError: something else is there, or the path can't be read.
    """
    if _is_file(Path(path)):
        patch = Patch.load(path)
        return patch, entries_of(patch)
    ledger = Ledger.open(path, create=False)
    return ledger.patch, tuple(entry for entry in ledger.edits if entry.state == "standing")


def copy_steps(
    source: Ledger, target: Ledger, *, force: bool = False, model: LanguageModel | None = None
) -> tuple[int, ...]:
    """Add what stands in a ledger to another, each step after those it was computed after; the new steps' numbers.

    With ``model`` the changes are also measured against its weights.

    Raises:
        KgEditError: as `Ledger.add`; the steps before the one that was refused are added.
    """
    numbers = dict[int, int]()
    for step in source.steps:
        after = [numbers[earlier] for earlier in step.after if earlier in numbers]
        numbers[step.number] = target.add(source.file(step), after=after, force=force, model=model)
    return tuple(numbers.values())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise OutputError(f"can't read {path}: {error.strerror}; check the path") from error
