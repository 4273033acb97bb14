"""Export a model with a merged patch as a folder for transformers.

`write_merged` writes a folder that transformers and compatible programs load: weights in shards, the tokenizer, and
``kg_edit.json`` (the patch's provenance). `check_mergeable` finds errors before a model is loaded. `blank_model` gives
a model's modules without weights, to look at the types of the modules.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from kg_edit.errors import ConfigError, ModelError, PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import choose_local_files_only, resolve_model
from kg_edit.models.sampling import plain_generation
from kg_edit.patches.base import Patch, edits_beside_weights, needs_of_server
from kg_edit.ship.export.folders import check_new, new_folder, write_notes

SHARD = "5GB"
_GENERATION = "generation_config.json"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", re.IGNORECASE)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def write_merged(
    patch: Patch, model: LanguageModel, folder: str | Path, *, shard: str = SHARD, card: str | None = None
) -> Path:
    """Write the edited model to a folder: weights in shards, the tokenizer, the provenance.

    The model itself is unchanged afterwards.

    Args:
        patch: the patch of weights.
        model: the unedited model.
        folder: a new or empty folder.
        shard: the maximum size of a file of weights, such as 5GB.
        card: the text of ``README.md``.
    """
    check_mergeable(patch, folder, shard=shard)
    with new_folder(Path(folder)) as scratch, patch.applied(model) as edited:
        # `save_pretrained` refuses the generation config of some published models (a temperature without do_sample),
        # so it is written apart, unchanged.
        generation_config = edited.model.generation_config
        with plain_generation(edited):
            edited.model.save_pretrained(scratch, max_shard_size=shard)
        if generation_config is not None:
            generation_config.to_json_file(scratch / _GENERATION)
        edited.tokenizer.save_pretrained(scratch)
        write_notes(scratch, patch.provenance, card)
    return Path(folder)


def check_mergeable(patch: Patch, folder: str | Path, *, shard: str = SHARD) -> None:
    """Check the arguments of `write_merged` before a model is loaded."""
    if _bytes_of(shard) < 1:
        raise ConfigError(
            f"{shard!r} is not a shard size; give a number above 0 with {', '.join(_UNITS)}, such as {SHARD}"
        )
    check_new(Path(folder))
    if not patch.mergeable:
        message = (
            f"edits of the patch are not changes of weights ({edits_beside_weights(patch) or patch.summary}), so it "
            "can't be merged; remove those edits first, or keep the patch file and use patch.applied(model). "
            f"{needs_of_server(patch)}"
        )
        raise PatchError(message.rstrip(". "))
    if patch.is_empty:
        raise PatchError("the patch changes nothing, so there is nothing to merge; add edits first")


def _bytes_of(shard: str) -> float:
    """Return the number of bytes of a size such as 5GB; 0 for a text that is not a size."""
    size = _SIZE.fullmatch(shard)
    if size is None:
        return 0.0
    number, unit = size.groups()
    return float(number) * float(_UNITS[unit.upper()])


def blank_model(name: str) -> nn.Module:
    """Return the model ``name`` (named model, hub id, folder or .gguf) on the meta device, without weights."""
    path = resolve_model(name)
    cached = choose_local_files_only(path)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=cached)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # transformers raises many types of errors for a damaged folder
        raise ModelError(
            f"can't read the configuration of {name!r}: {error}; give its name or folder: --model"
        ) from error
    return model
