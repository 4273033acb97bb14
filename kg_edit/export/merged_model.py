"""A model with a patch in its weights, as a folder that transformers, and whatever reads such folders, loads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel

from kg_edit.errors import ConfigError, PatchError
from kg_edit.export.new_folder import check_new, new_folder
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.storage.atomic import write_json

ORIGIN, SHARD = "kg_edit.json", "5GB"
_GENERATION = "generation_config.json"
_SIZE, _UNITS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", re.IGNORECASE), ("KB", "MB", "GB", "TB")


def check_mergeable(patch: Patch, folder: str | Path, *, shard: str = SHARD) -> None:
    """Look, before a model is loaded, whether `write_merged` can work.

    Raises:
        ConfigError: ``shard`` is no size.
        PatchError: the patch can't be part of weights, or changes nothing.
        OutputError: the folder holds something.
    """
    check_shard(shard)
    check_new(Path(folder))
    if not patch.mergeable:
        raise PatchError(
            f"the patch has a part that is no change of weights ({patch.summary}), which can't be merged; remove those "
            "edits first, or keep the patch file and use patch.applied(model)"
        )
    if patch.is_empty:
        raise PatchError("the patch changes nothing, so there is nothing to merge; add edits first")


def check_shard(size: str) -> None:
    """Refuse what is no size of a file.

    Raises:
        ConfigError: it is not of the form 5GB, or less than a byte.
    """
    found = _SIZE.fullmatch(size)
    if not found or float(found[1]) * 1000 ** (1 + _UNITS.index(found[2].upper())) < 1:
        raise ConfigError(
            f"{size!r} is no size of a shard; give a number above 0 with {', '.join(_UNITS)}, such as {SHARD}"
        )


def write_merged(patch: Patch, model: LanguageModel, folder: str | Path, *, shard: str = SHARD) -> Path:
    """Write the edited model to ``folder``: weights in shards of at most ``shard``, tokenizer, and where it came from.

    The model itself is as before afterwards.

    Raises:
        ConfigError: ``shard`` is no size.
        PatchError: the patch can't be part of weights, or changes nothing.
        PatchMismatchError: it is for another model.
        OutputError: the folder holds something, or can't be written.
    """
    check_mergeable(patch, folder, shard=shard)
    with new_folder(Path(folder)) as scratch, patch.applied(model) as edited:
        _save(edited.model, scratch, shard)
        edited.tokenizer.save_pretrained(scratch)
        write_json(scratch / ORIGIN, dict(patch.provenance))
    return Path(folder)


def _save(model: PreTrainedModel, folder: Path, shard: str) -> None:
    """As `save_pretrained`, which refuses a generation config that contradicts itself, as some published ones do."""
    with _no_generation_config(model) as own:
        model.save_pretrained(folder, max_shard_size=shard)
    if own is not None:
        own.to_json_file(folder / _GENERATION)


@contextmanager
def _no_generation_config(model: PreTrainedModel) -> Iterator[GenerationConfig | None]:
    own = model.generation_config
    try:
        model.generation_config = GenerationConfig()
        yield own
    finally:
        model.generation_config = own
