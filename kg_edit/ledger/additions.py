"""Patch files that become steps of a ledger together: all of them, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kg_edit.errors import PatchError
from kg_edit.ledger.entries import check_records
from kg_edit.ledger.log import sha256_of
from kg_edit.patches.base import Patch


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A patch file to add; ``after`` are the places, among the additions, of those that it was computed after."""

    path: Path
    after: tuple[int, ...] = ()


def loaded(additions: Sequence[Addition]) -> Iterator[tuple[Addition, Patch]]:
    """Each addition with its patch, which could be part of a ledger.

    Raises:
        PatchError: a patch is damaged; a note names its file.
    """
    for addition in additions:
        patch = Patch.load(addition.path)
        with naming(addition):
            check_addable(patch)
        yield addition, patch


@contextmanager
def naming(addition: Addition) -> Iterator[None]:
    """Note at an error which file it is about."""
    try:
        yield
    except PatchError as error:
        error.add_note(f"in {addition.path}")
        raise


def check_addable(patch: Patch) -> None:
    """Refuse what can't be part of any ledger.

    Raises:
        PatchError: its records are not those of edits, or a number in it is not finite.
    """
    check_records(patch)
    patch.check_finite()


def refuse_repeated(additions: Sequence[Addition]) -> None:
    """Refuse additions of which two are the same file.

    Raises:
        PatchError: they are.
    """
    seen = dict[str, Path]()
    for addition in additions:
        digest = sha256_of(addition.path)
        if first := seen.get(digest):
            what = "is given twice" if first == addition.path else f"is the same patch as {first}"
            raise PatchError(f"{addition.path} {what}; name it once, or --force (force=True) adds it twice")
        seen[digest] = addition.path
