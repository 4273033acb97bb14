"""Writes a patch of weights as a PEFT LoRA adapter, for servers that load such adapters; PEFT is not needed here.

W + left right^T is LoRA's W + (alpha / r) B A with A = right^T [r, in], B = left [out, r] and alpha = r. PEFT supports
a rank and an alpha for each weight, but other programs do not: vLLM reads one alpha for all weights, llama.cpp divides
one alpha by each tensor's own rank. So all weights get the same rank, where columns of zeros fill up lower ranks
(`with_one_rank`), and the scale alpha / r is 1 for every program.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.export.merged_model import new_folder, write_notes
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.storage.atomic import write_json, write_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write_peft(
    patch: Patch, folder: str | Path, *, modules: nn.Module, base: str | None = None, card: str | None = None
) -> Path:
    """Write ``folder``, which `peft.PeftModel.from_pretrained(model, folder)` loads.

    All weights get the largest rank of the changes: the number of edits in a weight, or the full rank of its shape.

    Args:
        patch: the patch of weights.
        folder: a new or empty folder.
        modules: the model, with weights or without (`blank_model`).
        base: the name by which `from_pretrained` loads the model.
        card: the text of ``README.md``.

    Raises:
        PatchError: the patch is not one of weights, is empty, or changes a module that adapters can't change.
        PatchMismatchError: the model has no such weights.
        OutputError: the folder is not empty, or can't be written.
    """
    factors, kinds = with_one_rank(patch), adapted_modules(patch, modules)
    if len({isinstance(kind, Conv1D) for kind in kinds.values()}) > 1:
        raise PatchError("the patch changes Conv1D and Linear weights; one adapter can't have both, so split the patch")
    transposed = isinstance(next(iter(kinds.values())), Conv1D)
    with new_folder(Path(folder)) as scratch:
        write_json(scratch / CONFIG, adapter_config(factors, base=base, transposed=transposed))
        write_safetensors(scratch / WEIGHTS, _tensors(factors), {"format": "pt"})
        write_notes(scratch, patch, card)
    return Path(folder)


def with_one_rank(patch: Patch) -> dict[str, Factors]:
    """The changes by the weights' names, all padded with columns of zeros to the largest rank among them.

    Raises:
        PatchError: the patch is not one of weights, or is empty.
    """
    if not isinstance(patch, WeightPatch) or patch.is_empty:
        what = (
            "changes no weight"
            if patch.is_empty
            else f"has parts of the kind {patch.kind!r}, not only changes of weights"
        )
        raise PatchError(
            f"the patch {what}, so it can't become a LoRA adapter; remove such edits, or keep the patch file and use "
            "patch.applied(model)"
        )
    rank = max(pair.rank for pair in patch.factors.values())
    return {name: _padded(pair, rank) for name, pair in patch.factors.items()}


def _padded(pair: Factors, rank: int) -> Factors:
    left, right = (pad(side.detach().cpu(), (0, rank - pair.rank)) for side in (pair.left, pair.right))
    return Factors(left=left, right=right)


def adapted_modules(patch: Patch, modules: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model that an adapter of ``patch`` changes, by the names of their weights.

    Raises:
        PatchError: a module is neither Linear nor Conv1D.
        PatchMismatchError: the model has no such weight, or one of another shape.
    """
    factors = patch.factors if isinstance(patch, WeightPatch) else {}
    return {name: _module(modules, name, pair) for name, pair in factors.items()}


def adapter_config(factors: Mapping[str, Factors], *, base: str | None, transposed: bool) -> dict[str, Any]:
    """The content of ``adapter_config.json`` for changes of equal rank, which is used as ``r`` and ``lora_alpha``."""
    rank = max(pair.rank for pair in factors.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(map(_module_name, factors)),
        "fan_in_fan_out": transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def _tensors(factors: Mapping[str, Factors]) -> Mapping[str, Tensor]:
    found = dict[str, Tensor]()
    for name, pair in factors.items():
        prefix = f"base_model.model.{_module_name(name)}"
        found[f"{prefix}.lora_A.weight"] = pair.right.T.contiguous()
        found[f"{prefix}.lora_B.weight"] = pair.left.contiguous()
    return found


def _module(model: nn.Module, name: str, pair: Factors) -> nn.Module:
    try:
        module = model.get_submodule(_module_name(name))
    except AttributeError as error:
        raise PatchMismatchError(f"the model has no weight {name}; give the model that the patch is for") from error
    if not isinstance(module, nn.Linear | Conv1D):
        raise PatchError(
            f"{name} is the weight of {type(module).__name__}; an adapter changes Linear and Conv1D weights only"
        )
    shape = tuple(module.weight.T.shape if isinstance(module, Conv1D) else module.weight.shape)
    if shape != pair.shape:
        raise PatchMismatchError(f"{name} is {shape} in the model, the patch is for {pair.shape}")
    return module


def _module_name(weight: str) -> str:
    return weight.removesuffix(".weight")
