"""Write a patch of weights as a PEFT LoRA adapter, and read such an adapter as a patch; PEFT is not needed here.

W + left right^T is LoRA's W + (alpha / r) B A with A = right^T [r, in], B = left [out, r] and alpha = r. PEFT supports
a rank and an alpha for each weight, but other programs do not: vLLM reads one alpha for all weights, llama.cpp divides
one alpha by each tensor's own rank. So all written weights get the same rank (`with_one_rank` adds
columns of zeros where a weight's rank is lower), and the scale alpha / r is 1 for every program.

An adapter that is read may have a rank and an alpha for each module; its scale is alpha / r, or alpha / sqrt(r) for
rank-stabilised LoRA.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch, edits_beside_weights, needs_of_server
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.export.merged_model import new_folder, write_notes
from kg_edit.storage.atomic import write_json, write_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# What PEFT puts around a module's name in a tensor's name
_PREFIX = "base_model.model."
_A = ".lora_A.weight"
_B = ".lora_B.weight"
_ADAPTER_ONLY = (True, False, None, "gaussian", "eva", "orthogonal")  # initialisations that leave the model's weights


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
    """
    factors = with_one_rank(patch)
    adapted = adapted_modules(patch, modules)
    config = _make_config(factors, is_conv1d=_are_conv1d(adapted.values()), base=base)
    tensors = dict[str, Tensor]()
    for name, pair in factors.items():
        module = f"{_PREFIX}{_name_module(name)}"
        tensors[f"{module}{_A}"] = pair.right.T.contiguous()  # A [r, in]
        tensors[f"{module}{_B}"] = pair.left.contiguous()  # B [out, r]
    with new_folder(Path(folder)) as scratch:
        write_json(scratch / CONFIG, config)
        write_safetensors(scratch / WEIGHTS, tensors, {"format": "pt"})
        write_notes(scratch, patch, card)
    return Path(folder)


def _are_conv1d(modules: Iterable[nn.Module]) -> bool:
    """Return whether modules are Conv1D or Linear ones; refuse a mixture."""
    are_conv1d = [isinstance(module, Conv1D) for module in modules]
    if any(are_conv1d) and not all(are_conv1d):
        raise PatchError("the patch changes Conv1D and Linear weights; one adapter can't have both, so split the patch")
    return all(are_conv1d)


def _make_config(factors: Mapping[str, Factors], *, is_conv1d: bool, base: str | None) -> dict[str, Any]:
    """Return the content of ``adapter_config.json`` for changes that all have one rank."""
    rank = next(iter(factors.values())).rank
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # so the scale alpha / r is 1
        "target_modules": sorted(_name_module(name) for name in factors),
        "fan_in_fan_out": is_conv1d,  # a Conv1D stores W transposed, [in, out]
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def with_one_rank(patch: Patch) -> dict[str, Factors]:
    """Return the changes by the weights' names, all padded with columns of zeros to the largest rank among them."""
    if patch.is_empty:
        raise PatchError("the patch changes no weight, so it can't become a LoRA adapter")
    if not isinstance(patch, WeightPatch):
        message = (
            "edits of the patch are not changes of weights, so it can't become a LoRA adapter: "
            f"{edits_beside_weights(patch)}; remove them (kg-edit patch remove), or use the patch file itself. "
            f"{needs_of_server(patch)}"
        )
        raise PatchError(message.rstrip(". "))
    rank = max(pair.rank for pair in patch.factors.values())
    padded = dict[str, Factors]()
    for name, pair in patch.factors.items():
        missing = (0, rank - pair.rank)  # columns before and after the factor's own
        left = pad(pair.left.detach().cpu(), missing)
        right = pad(pair.right.detach().cpu(), missing)
        padded[name] = Factors(left=left, right=right)
    return padded


def adapted_modules(patch: Patch, modules: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model that an adapter of ``patch`` changes, by the names of their weights."""
    if not isinstance(patch, WeightPatch):
        return {}
    adapted = dict[str, nn.Module]()
    for name, pair in patch.factors.items():
        try:
            module = modules.get_submodule(_name_module(name))
        except AttributeError as error:
            raise PatchMismatchError(f"the model has no weight {name}; give the model that the patch is for") from error
        if not isinstance(module, nn.Linear | Conv1D):
            raise PatchError(
                f"{name} is the weight of {type(module).__name__}; an adapter changes Linear and Conv1D weights only"
            )
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight  # [out, in]
        shape = tuple(weight.shape)
        if shape != pair.shape:
            raise PatchMismatchError(f"{name} is {shape} in the model, the patch is for {pair.shape}")
        adapted[name] = module
    return adapted


def _name_module(weight: str) -> str:
    return weight.removesuffix(".weight")


def is_adapter(path: str | Path) -> bool:
    """Return whether a path is the folder of a PEFT adapter."""
    return (Path(path) / CONFIG).is_file()


def read_peft(folder: str | Path, model: LanguageModel) -> WeightPatch:
    """Read the adapter in ``folder`` as a patch for ``model`` with the same effect."""
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder)
    factors = dict[str, Factors]()
    for name in _list_adapted_names(tensors, folder):
        a = tensors[f"{name}{_A}"].float()  # [r, in]
        b = tensors[f"{name}{_B}"].float()  # [out, r]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            raise PatchError(f"the factors of {name} don't fit: {tuple(b.shape)} and {tuple(a.shape)}; save it again")
        module = name.removeprefix(_PREFIX)
        try:
            scale = _scale_of(module, a.shape[0], config)
        except (ArithmeticError, AttributeError, TypeError, ValueError, re.error) as error:
            raise PatchError(f"{folder / CONFIG} gives {module} no scale ({error}); save the adapter again") from error
        factors[f"{module}.weight"] = Factors(left=scale * b, right=a.T.contiguous())
    about = {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)}
    patch = WeightPatch(factors=factors, provenance={"model": about, "methods": [{"name": f"PEFT, {folder.name}"}]})
    patch.modules(model)
    patch.check_finite()
    return patch


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise PatchError(
            f"{folder} has no {WEIGHTS}; adapter_model.bin is a pickle, which is not read: save the adapter with "
            "PEFT's save_pretrained(…, safe_serialization=True)"
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise PatchError(f"can't read {path}: {error}; check that the file is complete") from error


def _list_adapted_names(tensors: Mapping[str, Tensor], folder: Path) -> list[str]:
    """Return the names that have both LoRA factors, sorted; refuse an adapter with any other tensor."""
    names = set[str]()
    expected = set[str]()
    for name in tensors:
        if name.endswith((_A, _B)):
            adapted = name.removesuffix(_A).removesuffix(_B)
            names.add(adapted)
            expected |= {f"{adapted}{_A}", f"{adapted}{_B}"}
    if not names or expected != tensors.keys():
        odd = sorted(expected ^ tensors.keys())[:3]
        raise PatchError(
            f"{folder / WEIGHTS} has other tensors than pairs of LoRA factors: {odd}; expected lora_A and lora_B"
        )
    return sorted(names)


def _scale_of(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return alpha / r of a module, or alpha / sqrt(r) for rank-stabilised LoRA.

    The first pattern that matches the module's name, or its end after a dot, gives the module an alpha of its own.
    """
    alpha = float(config.get("lora_alpha", rank))
    patterns = config.get("alpha_pattern") or {}
    for pattern, its_alpha in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(its_alpha)
            break
    if config.get("use_rslora"):
        return alpha / math.sqrt(rank)
    return alpha / rank


def _read_config(path: Path) -> Mapping[str, Any]:
    """Read ``adapter_config.json``, and refuse an adapter that is more than low-rank changes."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PatchError(f"can't read {path}: {error}; expected a PEFT adapter's folder") from error
    if not isinstance(config, dict):
        raise PatchError(f"{path} is {config!r:.80}; expected the object that PEFT writes for an adapter")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise PatchError(f"{path} is an adapter of the type {kind!r}; only LORA can be read as a patch")
    more = [name for name in ("use_dora", "modules_to_save", "lora_bias", "layer_replication") if config.get(name)]
    if config.get("bias", "none") != "none":
        more.append("bias")
    if more:
        raise PatchError(f"{path} uses {', '.join(more)}, which a patch can't have; only low-rank changes can be read")
    initialisation = config.get("init_lora_weights", True)
    if initialisation not in _ADAPTER_ONLY:
        raise PatchError(
            f"{path} has init_lora_weights={initialisation!r}, with which the model's own weights change too; save the "
            "adapter with PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…), which makes a plain "
            "LoRA of it"
        )
    return config
