"""A model with a patch in it for other programs: written as a folder, or in memory for the lm-evaluation-harness.

`write_merged` writes a folder that transformers, and whatever reads such folders, loads: weights in shards, the
tokenizer, and ``kg_edit.json`` (the patch's provenance). `check_mergeable` refuses before a model is loaded.
`lm_eval_model` makes a patched model one of EleutherAI's harness. `new_folder` makes a folder that is there in whole or
not at all; `blank_model` gives a model's modules without weights, enough to see what kind each one is.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from kg_edit.errors import ConfigError, ModelError, OutputError, PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import resolve_model
from kg_edit.patches.base import Patch
from kg_edit.storage.atomic import open_to_readers, write_json, write_text

ORIGIN, CARD, SHARD = "kg_edit.json", "README.md", "5GB"
_GENERATION = "generation_config.json"
_SIZE, _UNITS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", re.IGNORECASE), ("KB", "MB", "GB", "TB")


def write_merged(
    patch: Patch, model: LanguageModel, folder: str | Path, *, shard: str = SHARD, card: str | None = None
) -> Path:
    """Write the edited model to ``folder``: weights in shards of at most ``shard``, tokenizer, and where it came from.

    ``card`` is the text of its ``README.md``. The model itself is as before afterwards.

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
        write_notes(scratch, patch, card)
    return Path(folder)


def write_notes(folder: Path, patch: Patch, card: str | None) -> None:
    """Write where a patch came from beside its export, and the model card where there is one.

    Raises:
        OutputError: a file can't be written.
    """
    write_json(folder / ORIGIN, dict(patch.provenance))
    if card is not None:
        write_text(folder / CARD, card)


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


@contextmanager
def lm_eval_model(model: LanguageModel, patch: Patch | None = None, *, batch_size: int = 8) -> Iterator[Any]:
    """An ``lm_eval.models.huggingface.HFLM`` of ``model`` with ``patch`` in it, for the length of a ``with`` block.

    Hand it to the harness: ``lm_eval.simple_evaluate(model=found, tasks=["hellaswag"])``. Nothing is copied or saved;
    after the block the model is bit for bit as before. What a patch of the prompt tells stands before each context; a
    whole text (a task of ``loglikelihood_rolling``) has none. Needs the extra ``kg-edit[lm-eval]``.

    Raises:
        ConfigError: lm-eval is not installed.
        PatchError: another patch is applied to this model.
        PatchMismatchError: the patch is for another model.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError("this needs lm-eval, which is not installed: pip install 'kg-edit[lm-eval]'") from error
    with patch.applied(model) if patch else nullcontext(model) as edited:
        own = _told(HFLM, edited.prompt_transform) if edited.prompt_transform else HFLM
        yield own(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch_size)


def _told(harness: Any, transform: Callable[[str], str]) -> Any:
    """lm-eval's model class, which reads contexts as ``transform`` makes them."""

    class Told(harness):  # type: ignore[misc,unused-ignore]
        """A model that is told facts in the prompt."""

        def _encode_pair(self, context: str, continuation: str) -> Any:
            return super()._encode_pair(transform(context), continuation)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
            """Texts after what the contexts become."""
            told = [replace(one, arguments=(transform(one.args[0]), *one.args[1:])) for one in requests]
            return super().generate_until(told, disable_tqdm=disable_tqdm)

    return Told


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        OutputError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is there already; give another folder, or delete it first")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder beside ``folder`` that takes its place at the end of the block, and vanishes on an error.

    Raises:
        OutputError: ``folder`` holds something, or can't be written.
    """
    check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield scratch
            open_to_readers(scratch)
            scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"can't write {folder}: {error.strerror or error}; choose another folder") from error


def blank_model(name: str) -> nn.Module:
    """The causal language model ``name`` (named model, hub id, folder or .gguf) on the meta device, without weights.

    Raises:
        ModelError: it is not here.
    """
    path = resolve_model(name)
    try:
        config = AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # of a damaged folder, transformers raises anything
        raise ModelError(
            f"can't read the configuration of {name!r}: {error}; give its name or folder: --model"
        ) from error
    return model
