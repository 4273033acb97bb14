"""A model with a patch in its weights, as a folder that transformers, and whatever reads such folders, loads."""

from __future__ import annotations

from pathlib import Path

from kg_edit.errors import PatchError
from kg_edit.export.new_folder import check_new, new_folder
from kg_edit.files import write_json
from kg_edit.language_model import LanguageModel
from kg_edit.patch import Patch

ORIGIN, SHARD = "kg_edit.json", "5GB"


def check_mergeable(patch: Patch, folder: str | Path) -> None:
    """Look, before a model is loaded, whether `write_merged` can work.

    Raises:
        PatchError: the patch can't be part of weights, or changes nothing.
        OutputError: the folder holds something.
    """
    check_new(Path(folder))
    if not patch.mergeable:
        raise PatchError(
            f"the patch has a part that is no change of weights ({patch.summary}), which can't be merged; remove those "
            "edits first, or keep the patch file and use patch.applied(model)"
        )
    if patch.is_empty:
        raise PatchError("the patch changes nothing, so there is nothing to merge; add edits first")


def write_merged(patch: Patch, model: LanguageModel, folder: str | Path, *, shard: str = SHARD) -> Path:
    """Write the edited model to ``folder``: weights in shards of at most ``shard``, tokenizer, and where it came from.

    The model itself is as before afterwards.

    Raises:
        PatchError: the patch can't be part of weights, or changes nothing.
        PatchMismatchError: it is for another model.
        OutputError: the folder holds something, or can't be written.
    """
    check_mergeable(patch, folder)
    with new_folder(Path(folder)) as scratch, patch.applied(model) as edited:
        edited.model.save_pretrained(scratch, max_shard_size=shard)
        edited.tokenizer.save_pretrained(scratch)
        write_json(scratch / ORIGIN, dict(patch.provenance))
    return Path(folder)
