"""Models whose linear layers are stored in a few bits: 4 (nf4) and 8 (int8) by bitsandbytes, or others of transformers.

Nothing of an edit needs the stored weight itself: a value is read from the output of the down-projection, a key from
its input, the gradient passes through the layer, and a patch is added beside it (`WeightPatch.applied_on_top`),

    y = quantised(W) x + left (right^T x)

What does need W (norms, R-ROME's residual) gets the dequantised matrix (`weight_matrix`).

``nf4`` and ``int8`` are precisions of the same checkpoint, as bfloat16 is: the model has the fingerprint of the stored
weights from which it was quantised, so a patch that was made in bfloat16 fits it, and the other way round.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kg_edit.errors import ModelError
from kg_edit.models.architectures import fingerprint_of, is_quantised


def quantised_options(
    kind: str, dtype: torch.dtype, device: torch.device, device_map: str | dict[str, int | str] | None = None
) -> dict[str, Any]:
    """Return the arguments with which transformers quantises a model while it loads it.

    Args:
        kind: ``nf4`` or ``int8``.
        dtype: what is computed with, and the type of what is not quantised (embeddings, norms, the head).
        device: where the model is loaded to, if there is no ``device_map``.
        device_map: as in `LanguageModel.load`.
    """
    if find_module("bitsandbytes") is None:
        raise ModelError(f"the dtype {kind} needs the package bitsandbytes: pip install 'kg-edit[quantised]'")
    from transformers import BitsAndBytesConfig

    # It logs at every product that it computes in float16, and once that it has no kernel for this processor.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if kind == "nf4":
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    if device_map is None:
        device_map = {"": str(device)}
    return {"quantization_config": config, "device_map": device_map, "dtype": dtype}


def keep_gradients(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew for a CPU, in a form that no gradient passes.

    It does so in the first forward pass without gradients, on processors that compute in bfloat16.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - of a module without types


def quantisation_of(model: nn.Module) -> str:
    """Return how the first quantised layer is stored: ``nf4``, ``int8`` or another type; "" if there is none."""
    for module in model.modules():
        if is_quantised(module):
            weight = getattr(module, "weight", None)
            state = getattr(weight, "quant_state", None)
            if state is not None:
                return str(state.quant_type)
            return str(getattr(weight, "dtype", "packed")).removeprefix("torch.")
    return ""


def stored_fingerprint(
    path: str, config: PreTrainedConfig, *, revision: str | None, trust_remote_code: bool, local: bool
) -> str | None:
    """Return the fingerprint of the checkpoint's stored weights, reading one tensor at a time.

    Args:
        path: a folder, or a hub id whose files are in the hub's cache.
        config: the model's config.
        revision: the branch, tag or commit on the hub; None: the default branch.
        trust_remote_code: whether the model's class may come from the hub.
        local: whether the hub must not be asked.

    Returns:
        None if a weight is not in a safetensors file under the name of its parameter.
    """
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        downloaded = snapshot_download(
            path, revision=revision, allow_patterns=["*.safetensors"], local_files_only=local
        )
        folder = Path(downloaded)
    with torch.device("meta"):
        blank: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    names = sorted(name for name, _ in blank.named_parameters())
    files = _find_files(folder)
    if not files.keys() >= set(names):
        return None
    return fingerprint_of(config.model_type, _read_weights(names, files))


def _find_files(folder: Path) -> dict[str, Path]:
    """Return the safetensors file of each weight of a checkpoint, by the weight's name."""
    from safetensors import safe_open

    files = dict[str, Path]()
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(str(file), framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - no mapping
                files[name] = file
    return files


def _read_weights(names: Iterable[str], files: Mapping[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight with its name, in the order of ``names``; only one is in memory at a time."""
    from safetensors import safe_open

    for name in names:
        with safe_open(str(files[name]), framework="pt") as shard:
            yield name, shard.get_tensor(name)
