"""Write a patch of weights as a PEFT LoRA adapter, which servers that take LoRA adapters load; PEFT is not needed here.

W + left right^T is LoRA's W + (alpha / r) B A with A = right^T [r, in], B = left [out, r] and alpha = r.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.export.merged_model import new_folder
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.storage.atomic import write_json, write_safetensors

CONFIG, WEIGHTS, ORIGIN = "adapter_config.json", "adapter_model.safetensors", "kg_edit.json"


def write_peft(patch: Patch, folder: str | Path, *, modules: nn.Module, base: str | None = None) -> Path:
    """Write ``folder``, which `peft.PeftModel.from_pretrained(model, folder)` loads.

    W + left right^T is LoRA's W + (alpha / r) B A with A = right^T [r, in], B = left [out, r] and alpha = r. The rank
    of a weight is the number of edits in it, or all that its shape can have. ``modules`` is the model, with weights or
    without (`blank_model`); ``base`` its name for others.

    Raises:
        PatchError: the patch is not one of weights, changes nothing, or a module that no adapter changes.
        PatchMismatchError: the model has no such weights.
        OutputError: the folder holds something, or can't be written.
    """
    if not isinstance(patch, WeightPatch) or patch.is_empty:
        what = "changes no weight" if patch.is_empty else f"is one of the {patch.kind}"
        raise PatchError(
            f"the patch {what}, so there is no LoRA adapter of it; remove such edits, or keep the patch file and use "
            "patch.applied(model)"
        )
    kinds = {name: _module(modules, name, pair) for name, pair in patch.factors.items()}
    if len({isinstance(kind, Conv1D) for kind in kinds.values()}) > 1:
        raise PatchError("the patch changes Conv1D and Linear weights, which one adapter can't; export them apart")
    transposed = isinstance(next(iter(kinds.values())), Conv1D)
    with new_folder(Path(folder)) as scratch:
        write_json(scratch / CONFIG, adapter_config(patch, base=base, transposed=transposed))
        write_safetensors(scratch / WEIGHTS, _tensors(patch), {"format": "pt"})
        write_json(scratch / ORIGIN, dict(patch.provenance))
    return Path(folder)


def adapter_config(patch: WeightPatch, *, base: str | None, transposed: bool) -> dict[str, Any]:
    """What stands in ``adapter_config.json``; the commonest rank is ``r``, others stand in the patterns."""
    ranks = {_module_name(name): pair.rank for name, pair in patch.factors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: other for name, other in ranks.items() if other != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def _tensors(patch: WeightPatch) -> Mapping[str, Tensor]:
    found = dict[str, Tensor]()
    for name, pair in patch.factors.items():
        prefix = f"base_model.model.{_module_name(name)}"
        found[f"{prefix}.lora_A.weight"] = pair.right.detach().cpu().T.contiguous()
        found[f"{prefix}.lora_B.weight"] = pair.left.detach().cpu().contiguous()
    return found


def _module(model: nn.Module, name: str, pair: Factors) -> nn.Module:
    try:
        module = model.get_submodule(_module_name(name))
    except AttributeError as error:
        raise PatchMismatchError(f"the model has no weight {name}; give the one that the patch is for") from error
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
