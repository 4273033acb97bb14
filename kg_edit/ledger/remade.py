"""Which edits of a ledger are no longer as they were added: a removal made them anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kg_edit.ledger.entries import Place
from kg_edit.ledger.events import Added, Removed, StoredFile
from kg_edit.ledger.sizes import chosen, columns
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch


def remade(events: Sequence[Added | Removed], load: Callable[[StoredFile], Patch]) -> dict[Place, Removed]:
    """The last removal that made each edit anew, given the events in force; one that is as it was added has none."""
    files, found = dict[int, StoredFile](), dict[Place, Removed]()
    for event in events:
        if isinstance(event, Added):
            files[event.number] = event.file
            continue
        for step, file in event.files.items():
            if file is None:
                continue
            for name in _changed(load(files[step]), load(file)):
                found[Place(step, name)] = event
            files[step] = file
    return found


def _changed(old: Patch, new: Patch) -> list[str]:
    """The edits of ``new`` whose record or change is another than in ``old``."""
    before, after = _parts(old), _parts(new)
    return [name for name, part in after.items() if name not in before or not _same(before[name], part)]


_Part = tuple[Mapping[str, Any], Mapping[str, Factors] | None]


def _parts(patch: Patch) -> dict[str, _Part]:
    """Each edit's record and its columns of a change of weights; None where a change is not one edit's.

    Of a prompt or a codebook, out of which edits are dropped, the record tells enough.
    """
    own = columns(patch)
    parts: dict[str, _Part] = {}
    for place, record in enumerate(patch.edits):
        mine: Mapping[str, Factors] | None = {} if hasattr(patch, "without") else None
        if own is not None and isinstance(patch, WeightPatch):
            mine = {name: chosen(pair, own[place]) for name, pair in patch.factors.items()}
        parts[record["edit"]["id"]] = record, mine
    return parts


def _same(one: _Part, two: _Part) -> bool:
    (record, mine), (other, its) = one, two
    if record != other or mine is None or its is None or mine.keys() != its.keys():
        return False
    return all(
        torch.equal(pair.left, its[name].left) and torch.equal(pair.right, its[name].right)
        for name, pair in mine.items()
    )
