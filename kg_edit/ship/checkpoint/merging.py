"""Merge a patch of weights into a checkpoint on disk, without loading the model: W' = W + left right^T.

Every file is copied, and the bytes of the changed tensors are replaced in the copy. Memory holds one weight at a time.
The numbers are those of `write_merged`, which loads the model: both call `Factors.added_to`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from kg_common.progress import Bar
from kg_edit.errors import PatchMismatchError
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.checkpoint.stored import GOES_ALONG, Checkpoint, StoredTensor, as_bytes
from kg_edit.ship.export.folders import new_folder, write_notes
from kg_edit.ship.export.merged_model import check_mergeable


@torch.no_grad()
def merge_checkpoint(
    patch: Patch, base: Checkpoint, folder: str | Path, *, card: str | None = None, progress: bool = True
) -> Path:
    """Write a copy of a checkpoint with the patch in its weights.

    Args:
        patch: the patch of weights.
        base: the checkpoint of the unedited model.
        folder: a new or empty folder; it is written completely or not at all.
        card: the text of ``README.md``.
        progress: show a bar of the bytes.

    Returns:
        The folder.

    Raises:
        PatchError: the patch is empty, changes more than weights, or makes a number infinite.
        PatchMismatchError: the patch is for another model; or a weight is stored fused or under another name.
        ModelError: a file of the checkpoint is missing or damaged.
        OutputError: the folder can't be written.
    """
    check_mergeable(patch, folder)
    assert isinstance(patch, WeightPatch)  # noqa: S101 - mergeable
    places = {name: _place_of(name, pair, base) for name, pair in patch.factors.items()}
    check_base(patch, base)
    total = sum(file.stat().st_size for file in base.files)
    with new_folder(Path(folder)) as scratch, Bar(title="merge", unit="B", total=total, shown=progress) as bar:
        for file in base.files:
            copy = scratch / file.name
            shutil.copyfile(file, copy)
            with copy.open("r+b") as stream:
                for name, place in places.items():
                    if place.file == file:
                        stream.seek(place.start)
                        stream.write(_compute_changed_bytes(name, patch.factors[name], place, base))
            bar.update(file.stat().st_size)
        _copy_other_files(base.folder, scratch)
        write_notes(scratch, patch.provenance, card)
    return Path(folder)


def check_base(patch: Patch, base: Checkpoint) -> None:
    """Refuse a checkpoint that the patch was not made on.

    Raises:
        PatchMismatchError: its fingerprint is another one.
    """
    if patch.fingerprint is None:
        return
    found = base.fingerprint()
    if found != patch.fingerprint:
        made_for = patch.provenance.get("model", {}).get("name")
        raise PatchMismatchError(
            f"the patch is for {made_for!r} (fingerprint {patch.fingerprint}), and {base.folder} is another model "
            f"({found}); give the folder of the unedited model (--model)"
        )


def _place_of(name: str, pair: Factors, base: Checkpoint) -> StoredTensor:
    """Return where a weight lies, after its shape has been checked."""
    place = base.find(name)
    expected = pair.shape
    if base.is_transposed(name):
        expected = (expected[1], expected[0])
    if place.shape != expected:
        raise PatchMismatchError(f"{name} is {place.shape} in {base.folder}, the patch is for {expected}")
    return place


def _compute_changed_bytes(name: str, pair: Factors, place: StoredTensor, base: Checkpoint) -> bytes:
    """Return the bytes of one weight with its change, in the layout and the type in which it is stored."""
    weight = place.read()
    if base.is_transposed(name):  # stored as [in, out]
        return as_bytes(pair.added_to(weight.T, name=name).T)
    return as_bytes(pair.added_to(weight, name=name))


def _copy_other_files(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer, and the index of the shards, which stays right."""
    for pattern in GOES_ALONG:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
