"""Reads the folder of a PEFT LoRA adapter as a patch of weights; PEFT is not needed here.

The adapter W + scale B A, with A [r, in] and B [out, r], becomes a patch with left = scale B and right = A^T. The scale
is alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA. Single modules may have their own r and alpha.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.export.peft_adapter import CONFIG, WEIGHTS
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import Factors, WeightPatch

_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # of the adapter's factors alone
_PREFIX, _SIDES = "base_model.model.", ("lora_A.weight", "lora_B.weight")


def is_adapter(path: str | Path) -> bool:
    """Whether a path is the folder of a PEFT adapter."""
    return (Path(path) / CONFIG).is_file()


def read_peft(folder: str | Path, model: LanguageModel) -> WeightPatch:
    """Read the adapter in ``folder`` as a patch for ``model`` with the same effect.

    Raises:
        PatchError: the folder has no readable LoRA adapter, or one with more than low-rank factors (DoRA, biases,
            changed weights of the model).
        PatchMismatchError: the model has no such weights.
    """
    folder = Path(folder)
    config = _config(folder)
    tensors = _tensors(folder)
    names = sorted({name.removesuffix(f".{side}") for name in tensors for side in _SIDES if name.endswith(f".{side}")})
    known = {f"{name}.{side}" for name in names for side in _SIDES}
    if not names or known != set(tensors):
        odd = sorted(known ^ set(tensors))[:3]
        raise PatchError(
            f"{folder / WEIGHTS} has other tensors than pairs of LoRA factors: {odd}; expected lora_A and lora_B"
        )
    factors = {f"{name.removeprefix(_PREFIX)}.weight": _factors(name, tensors, config) for name in names}
    said = {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)}
    patch = WeightPatch(factors=factors, provenance={"model": said, "methods": [{"name": f"PEFT, {folder.name}"}]})
    patch.modules(model)
    patch.check_finite()
    return patch


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PatchError(f"can't read {path}: {error}; expected a PEFT adapter's folder") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else config
        raise PatchError(f"{path} is an adapter of the type {found!r}; only LORA can be read as a patch")
    more = [name for name in ("use_dora", "modules_to_save", "lora_bias") if config.get(name)]
    more += ["bias"] if config.get("bias", "none") != "none" else []
    if more:
        raise PatchError(f"{path} uses {', '.join(more)}, which a patch can't have; only low-rank changes can be read")
    if (start := config.get("init_lora_weights", True)) not in _STARTS:
        raise PatchError(
            f"{path} has init_lora_weights={start!r}, with which the model's own weights change too; save the adapter "
            "with PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…), which makes a plain LoRA of it"
        )
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
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


def _factors(name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Factors:
    down, up = (tensors[f"{name}.{side}"].float() for side in _SIDES)
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise PatchError(f"the factors of {name} don't fit: {tuple(up.shape)} and {tuple(down.shape)}; save it again")
    rank = down.shape[0]
    alpha = _own(config.get("alpha_pattern"), name.removeprefix(_PREFIX), config.get("lora_alpha", rank))
    scale = float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
    return Factors(left=scale * up, right=down.T.contiguous())


def _own(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that matches the module's name, or its end after a dot; else ``default``."""
    found = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", name))
    return next(found, default)
