"""Write a patch of weights as a PEFT LoRA adapter, and read such an adapter as a patch; PEFT is not needed here.

To write one needs no torch either: the changes are arrays (`Changes`).

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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.patches.changes import Array, Changes, LowRank, collect_changes
from kg_edit.ship.export.folders import new_folder, write_notes
from kg_edit.ship.export.layout import Layout
from kg_edit.storage.atomic import write_arrays, write_json

if TYPE_CHECKING:  # an adapter is written without torch
    from torch import Tensor

    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.patches.weight_patch import WeightPatch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# What PEFT puts around a module's name in a tensor's name
_PREFIX = "base_model.model."
_A = ".lora_A.weight"
_B = ".lora_B.weight"
_ADAPTER_ONLY = (True, False, None, "gaussian", "eva", "orthogonal")  # initialisations that leave the model's weights


def write_peft(
    patch: Patch | Changes, folder: str | Path, *, layout: Layout, base: str | None = None, card: str | None = None
) -> Path:
    """Write ``folder``, which `peft.PeftModel.from_pretrained(model, folder)` loads.

    All weights get the largest rank of the changes: the number of edits in a weight, or the full rank of its shape.

    Args:
        patch: the patch of weights.
        folder: a new or empty folder.
        layout: how the model holds the weights (`layout_for`).
        base: the name by which `from_pretrained` loads the model.
        card: the text of ``README.md``.
    """
    factors = with_one_rank(patch)
    config = _make_config(factors, is_conv1d=check_layout(factors, layout), base=base)
    arrays = dict[str, Array]()
    for name, pair in factors.items():
        module = f"{_PREFIX}{_name_module(name)}"
        arrays[f"{module}{_A}"] = np.ascontiguousarray(pair.right.T)  # A [r, in]
        arrays[f"{module}{_B}"] = np.ascontiguousarray(pair.left)  # B [out, r]
    with new_folder(Path(folder)) as scratch:
        write_json(scratch / CONFIG, config)
        write_arrays(scratch / WEIGHTS, arrays, {"format": "pt"})
        write_notes(scratch, patch.provenance, card)
    return Path(folder)


def check_layout(factors: Mapping[str, LowRank], layout: Layout) -> bool:
    """Check that the changes fit the model's weights; return whether those are Conv1D weights (else Linear ones)."""
    are_conv1d = []
    for name, pair in factors.items():
        place = layout.find(name)
        shape = (len(pair.left), len(pair.right))
        if place.shape != shape:
            raise PatchMismatchError(f"{name} is {place.shape} in the model, the patch is for {shape}")
        are_conv1d.append(place.is_conv1d)
    if any(are_conv1d) and not all(are_conv1d):
        raise PatchError("the patch changes Conv1D and Linear weights; one adapter can't have both, so split the patch")
    return all(are_conv1d)


def _make_config(factors: Mapping[str, LowRank], *, is_conv1d: bool, base: str | None) -> dict[str, Any]:
    """Return the content of ``adapter_config.json`` for changes that all have one rank."""
    rank = next(iter(factors.values())).left.shape[1]
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


def with_one_rank(patch: Patch | Changes) -> dict[str, LowRank]:
    """Return the changes by the weights' names, all padded with columns of zeros to the largest rank among them."""
    if patch.is_empty:
        raise PatchError("the patch changes no weight, so it can't become a LoRA adapter")
    changes = collect_changes(patch)
    if changes.kind != "weights":
        assert not isinstance(patch, Changes)  # noqa: S101 - the sum of arrays is of weights
        raise _beside_weights(patch)
    rank = max(pair.left.shape[1] for pair in changes.factors.values())
    padded = dict[str, LowRank]()
    for name, pair in changes.factors.items():
        columns = ((0, 0), (0, rank - pair.left.shape[1]))  # rows and columns to add, before and after
        padded[name] = LowRank(np.pad(pair.left, columns), np.pad(pair.right, columns))
    return padded


def _beside_weights(patch: Patch) -> PatchError:
    """Return the error for a patch with edits that are not changes of weights."""
    from kg_edit.patches.base import edits_beside_weights, needs_of_server

    message = (
        "edits of the patch are not changes of weights, so it can't become a LoRA adapter: "
        f"{edits_beside_weights(patch)}; remove them (kg-edit patch remove), or use the patch file itself. "
        f"{needs_of_server(patch)}"
    )
    return PatchError(message.rstrip(". "))


def _name_module(weight: str) -> str:
    return weight.removesuffix(".weight")


def is_adapter(path: str | Path) -> bool:
    """Return whether a path is the folder of a PEFT adapter."""
    return (Path(path) / CONFIG).is_file()


def read_peft(folder: str | Path, model: LanguageModel) -> WeightPatch:
    """Read the adapter in ``folder`` as a patch for ``model`` with the same effect."""
    from kg_edit.patches.factors import Factors
    from kg_edit.patches.weight_patch import WeightPatch

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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

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
