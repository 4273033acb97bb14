"""List the patches that a user adds to a ledger, each with the others that it was computed after, without torch.

A run of `kg-edit evaluate` edits in sequences, and stores the update of each step of a sequence as a patch file, as
`StepFiles` names them:

    patches/00003-00011.safetensors      update 11 of the sequence 00003, which begins with update 0
    patches/00003-sum-00010.safetensors  the sum of its first ten updates, 0 to 9, whose own files it replaces

So a sum is earlier than every update of its sequence that has a file. In this file, a step is always one of a ledger
(`PatchStep`), and a step of a sequence is called an update.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kg_edit.errors import PatchError
from kg_edit.ship.ledger.listing import Listing, patch_file
from kg_edit.ship.ledger.log import PATCHES
from kg_edit.storage.run_folder import PATCH, is_run

_UPDATE_FILE = re.compile(r"(?P<sequence>[0-9]{5})-(?P<sum>sum-)?(?P<number>[0-9]{5})\.safetensors")
_SUM = -1  # the number of a sum, which is smaller than that of every update with a file
_NAMED = 5  # files that an error names

_Sequence = tuple[Path, str]  # the folder of a sequence's files, and the sequence's name: (run/patches, "00003")


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A patch file to add.

    ``after`` are the indices of the additions that the model had when this one was computed; ``failed`` are the ids of
    its edits that failed when they were made.
    """

    path: Path
    after: tuple[int, ...] = ()
    failed: tuple[str, ...] = ()


def list_additions(paths: Iterable[Path]) -> tuple[Addition, ...]:
    """Return the additions for the patch files, folders of `kg-edit edit`, and ledgers that a user names.

    The sums of sequences come first, then all others in the user's order. An update of a sequence comes after the
    earlier updates of its sequence; it is refused if one of them is not given, or is given later.
    """
    listed = list(paths)
    ordered = [path for path in listed if _is_sum(path)]
    ordered += [path for path in listed if not _is_sum(path)]
    sequences = _list_sequences(ordered)
    added: list[Addition] = []
    indices: dict[Path, int] = {}  # of the patch files in `added`, by their paths without links
    for path in ordered:
        file = patch_file(path)
        if file is None and path.is_dir():
            added += _list_ledger_steps(Listing.open(path), first=len(added))
            continue
        earlier = _list_earlier_updates(path, sequences)
        _refuse_lacking(path, [other for other in earlier if other not in indices])
        indices[path.resolve()] = len(added)
        after = sorted(indices[other] for other in earlier)
        patch = file or path
        added.append(Addition(path=patch, after=tuple(after), failed=find_failed(patch)))
    return tuple(added)


def find_failed(patch: Path) -> tuple[str, ...]:
    """Return the ids of the edits that failed in the run that made a patch file, by the report beside the file."""
    from kg_edit.reports.verdict import Verdict

    verdict = None
    if patch.name == PATCH:  # beside a copy, the report may be of another patch
        verdict = Verdict.beside(patch)
    if verdict is None:
        return ()
    return tuple(result.edit for result in verdict.failed)


def _list_ledger_steps(ledger: Listing, *, first: int) -> list[Addition]:
    """Return the active steps of a ledger as additions, of which the first one gets the index ``first``."""
    indices = {step.number: index for index, step in enumerate(ledger.steps, first)}
    added = []
    for step in ledger.steps:
        after = tuple(indices[number] for number in step.after if number in indices)  # without the removed steps
        added.append(Addition(path=ledger.file(step), after=after, failed=step.failed))
    return added


def _is_sum(path: Path) -> bool:
    """Return whether a file is the sum of a sequence's first updates."""
    _, number = _read_name(path)
    return number == _SUM


def _list_sequences(paths: Sequence[Path]) -> dict[_Sequence, dict[Path, int]]:
    """Return all files of every sequence that one of ``paths`` belongs to: the number of each file's update."""
    sequences: dict[_Sequence, dict[Path, int]] = {}
    for path in paths:
        name, _ = _read_name(path)
        sequence = (path.parent, name)
        if name and sequence not in sequences:
            sequences[sequence] = _list_updates(path.parent, name)
    return sequences


def _list_updates(folder: Path, sequence: str) -> dict[Path, int]:
    """Return the number of each update of a sequence, by the path of its file without links."""
    numbers = dict[Path, int]()
    for path in folder.glob(f"{sequence}-*"):
        its_sequence, number = _read_name(path)
        if its_sequence:
            numbers[path.resolve()] = number
    return numbers


def _list_earlier_updates(path: Path, sequences: Mapping[_Sequence, Mapping[Path, int]]) -> list[Path]:
    """Return the files of the earlier updates of a patch's sequence; [] for a patch of no sequence."""
    name, number = _read_name(path)
    updates = sequences.get((path.parent, name), {})
    return [other for other, other_number in updates.items() if other_number < number]


def _refuse_lacking(path: Path, lacking: Sequence[Path]) -> None:
    """Refuse an update of a sequence for which earlier updates are lacking."""
    if not lacking:
        return
    names = sorted(quote(str(other)) for other in lacking)
    shown = " ".join(names[:_NAMED])
    if len(names) > _NAMED:
        shown += " …"
    raise PatchError(
        f"{path} was made on the model with the earlier steps of its sequence; give these before it: {shown}"
    )


def _read_name(path: Path) -> tuple[str, int]:
    """Return the sequence of a patch file of `kg-edit evaluate`, and the number of its update, by the file's name.

    A sum has the number `_SUM`. Any other file has no sequence: ("", 0).
    """
    name = _UPDATE_FILE.fullmatch(path.name)
    # A run's folder of patches is called PATCHES too, as that of a ledger.
    if name is None or path.parent.name != PATCHES or not is_run(path.parent.parent):
        return "", 0
    number = _SUM if name["sum"] else int(name["number"])
    return name["sequence"], number
