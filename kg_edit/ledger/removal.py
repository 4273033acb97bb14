"""Taking edits out of a ledger so that it is what it would be had they never been asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import reduce
from operator import add
from typing import Any

from kg_edit.ledger.entries import Place
from kg_edit.ledger.events import Step
from kg_edit.ledger.made_with import check_same_method, method_said
from kg_edit.ledger.remaking import Workbench, batches, made_anew
from kg_edit.methods import find_method
from kg_edit.patches.base import Patch
from kg_edit.patches.codebook_patch import CodebookPatch
from kg_edit.patches.weight_patch import WeightPatch


def total(patches: Iterable[Patch]) -> Patch:
    """The sum of patches, which may be none."""
    return reduce(add, patches, WeightPatch(factors={}))


def without(
    steps: Sequence[Step], patches: Mapping[int, Patch], taken: AbstractSet[Place], workbench: Workbench
) -> dict[int, Patch | None]:
    """What every step that changes becomes once the edits ``taken`` are gone; None where nothing of it is left.

    A step that was computed after one that changes is made anew as a whole. Where the patch or its method can take
    single edits out, that is done; else the edits of the patch are made anew from its records.

    Raises:
        KgEditError: an edit has to be made anew, and can't be.
    """
    now, changed = dict(patches), dict[int, Patch | None]()
    for step in steps:
        patch, number = patches[step.number], step.number
        gone = {place.id for place in taken if place.step == number}
        moved = any(earlier in changed and _knows(patch, patches[earlier]) for earlier in step.after)
        if not (gone or moved):
            continue
        if all(record["edit"]["id"] in gone for record in patch.edits):
            changed[number] = None
            del now[number]
            continue
        before = total(now[earlier] for earlier in step.after if earlier in now)
        changed[number] = now[number] = _rest(patch, gone, before, moved, workbench)
    return changed


def _rest(patch: Patch, gone: AbstractSet[str], before: Patch, moved: bool, workbench: Workbench) -> Patch:
    if moved:
        return made_anew(patch, gone, before=before, moved=True, workbench=workbench)
    own: Any = getattr(patch, "without", None)  # a patch of the prompt, or a codebook
    if own is not None:
        rest: Patch = own(gone)
        return rest
    if not find_method(method_said(patch)["name"]).separable or not _in_last_batch(patch, gone):
        return made_anew(patch, gone, before=before, moved=False, workbench=workbench)
    method: Any = workbench.method(patch)
    rest = method.without(patch, gone, before=before)
    check_same_method(patch, rest)
    return rest


def _knows(patch: Patch, earlier: Patch) -> bool:
    """Whether ``earlier`` could matter while ``patch`` was computed: to a text never, to a codebook only weights."""
    return patch.kind != "prompt" and not (isinstance(patch, CodebookPatch) and isinstance(earlier, CodebookPatch))


def _in_last_batch(patch: Patch, gone: AbstractSet[str]) -> bool:
    """Whether no later batch of the patch knew of the edits: its values were found on the model with them."""
    *earlier, _ = batches(patch.edits, joint=True)
    return not any(record["edit"]["id"] in gone for batch in earlier for record in batch)
