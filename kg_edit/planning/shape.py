"""Find a model's sizes from its config alone: no weight is read, and a model with presets needs no hub."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import ModelError, did_you_mean
from kg_edit.methods.presets import list_published_models, read_presets
from kg_edit.models.architectures import ModelSpec, find_spec, width_of_experts
from kg_edit.models.language_model import ATTENTION, matrix_shape, weight_matrix
from kg_edit.models.loading import (
    NAMED_MODELS,
    UnreachableHubError,
    choose_local_files_only,
    in_short,
    named_model_file,
    resolve_model,
)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model's sizes.

    Attributes:
        name: as the user named it.
        family: its family.
        layers: the number of blocks.
        width: d.
        inner: d_ff.
        vocabulary: the number of tokens in the vocabulary.
        block: the number of elements of one block's matrices.
        identities: the number of elements of the identity matrices that dense changes are stored with
            (`Factors.dense`): min(out, in)² for each matrix [out, in] of a block.
        parameters: the number of all parameters.
        cache: how many values one token adds to the KV cache of all attention blocks together.
        experts: whether it is a mixture of experts, whose blocks have no down-projection.
        adds_mlp: whether a block adds the MLP's output as it is, without a norm or a factor.
        packed: the number of parameters that a quantised model packs: the weights of linear layers, without the head.
        packed_rows: the number of rows of these weights.
        recurrent: the kinds of blocks that are not attention, as the config names them.
    """

    name: str
    family: str
    layers: int
    width: int
    inner: int
    vocabulary: int
    block: int
    identities: int
    parameters: int
    cache: int
    experts: bool = False
    adds_mlp: bool = True
    packed: int = 0
    packed_rows: int = 0
    recurrent: tuple[str, ...] = ()


def shape_of(name: str) -> ModelShape:
    """Return the sizes of a model: a name of `kg-edit models` or of a preset, a hub id, a folder, or a GGUF file."""
    config = _find_preset_config(name)
    if config is None:
        config = _read_config(name)
    return shape_of_config(config, name=name)


def shape_of_config(config: PretrainedConfig, *, name: str) -> ModelShape:
    """Return the sizes of a model with this ``config``."""
    spec = find_spec(config)
    text_config = config.get_text_config()
    try:
        with torch.device("meta"):  # weights have a shape but take no memory
            model = AutoModelForCausalLM.from_config(config)
        blocks = model.get_submodule(spec.blocks)
        width, inner = _measure_mlp(blocks[0], spec, text_config)
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"can't read the size of {name!r} from its config: {error}; check that config.json is complete"
        ) from error
    layer_types = getattr(text_config, "layer_types", None) or ()
    recurrent = [kind for kind in layer_types if kind not in ATTENTION]
    attention_blocks = len(blocks) - len(recurrent)
    matrices = [part.shape for part in blocks[0].parameters() if part.dim() >= 2]  # the block stands for all of them
    packed = _list_packed_weights(model)
    return ModelShape(
        name=name,
        family=config.model_type,
        layers=len(blocks),
        width=width,
        inner=inner,
        vocabulary=model.get_output_embeddings().weight.shape[0],
        block=sum(math.prod(sides) for sides in matrices),
        identities=sum(min(sides) ** 2 for sides in matrices),
        parameters=sum(part.numel() for part in model.parameters()),
        cache=2 * attention_blocks * _key_width(text_config),  # a key and a value each
        packed=sum(math.prod(sides) for sides in packed),
        packed_rows=sum(rows for rows, _ in packed),
        experts=spec.down_projection is None,
        adds_mlp=_adds_mlp(text_config, blocks[0]),
        recurrent=tuple(sorted(set(recurrent))),
    )


def _measure_mlp(block: nn.Module, spec: ModelSpec, text_config: PretrainedConfig) -> tuple[int, int]:
    """Return d and d_ff of a block's MLP, whose down-projection is [d, d_ff].

    Of a mixture of experts, d_ff is that of all experts of a token together.
    """
    if spec.down_projection is None:
        return text_config.hidden_size, width_of_experts(text_config)
    width, inner = weight_matrix(block.get_submodule(spec.down_projection)).shape
    return width, inner


def _list_packed_weights(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Return the shape (out, in) of each weight that a quantised model packs, as transformers chooses them.

    These are all linear layers but the head.
    """
    head = model.get_output_embeddings()
    shapes = []
    for module in model.modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            shapes.append(matrix_shape(module))
    return shapes


def _key_width(text_config: PretrainedConfig) -> int:
    """Return the width of a token's keys, all heads together; it is less than d if heads share keys."""
    heads = text_config.num_attention_heads
    key_heads = getattr(text_config, "num_key_value_heads", None) or heads
    is_new_falcon = getattr(text_config, "new_decoder_architecture", False)
    if getattr(text_config, "multi_query", False) and not is_new_falcon:  # Falcon
        key_heads = 1
    head_width = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    return int(key_heads * head_width)


def _adds_mlp(text_config: PretrainedConfig, block: nn.Module) -> bool:
    """Return whether a block adds the MLP's output as it is."""
    for name, _ in block.named_children():
        if re.fullmatch(r"post_(feedforward|mlp|ffn)_(layer)?norm", name):  # Gemma 2, OLMo 2, EXAONE 4; GLM-4; LFM3
            return False
    if getattr(text_config, "residual_multiplier", 1.0) != 1.0:  # Granite
        return False
    return bool(getattr(text_config, "do_layer_norm_before", True))  # OPT-350M norms after the sum


def _find_preset_config(name: str) -> PretrainedConfig | None:
    """Return the config that is packaged for the model of a preset; None for any other model, and for a path."""
    if Path(name).exists():
        return None
    for preset_name in list_published_models():
        preset = read_presets(preset_name)
        if name.casefold() in (preset.name, preset.model.casefold()):
            published: PretrainedConfig = AutoConfig.for_model(**preset.config)
            return published
    return None


def _read_config(name: str) -> PretrainedConfig:
    """Read the config of a model from its files or from the hub."""
    source = _find_config_source(name)
    try:
        cached = choose_local_files_only(str(source["pretrained_model_name_or_path"]))
        config: PretrainedConfig = AutoConfig.from_pretrained(**source, local_files_only=cached)
    except UnreachableHubError as error:
        raise _config_error(name, error.reason) from error
    except Exception as error:  # transformers and the GGUF reader may raise anything for a damaged file
        raise _config_error(name, in_short(error)) from error
    return config


def _find_config_source(name: str) -> dict[str, Any]:
    """Return the arguments with which transformers reads the config of a model.

    The config of a GGUF file is read from its header, without dequantising the file.
    """
    path = Path(name)
    if name in NAMED_MODELS:
        path = named_model_file(name)
    if path.suffix == ".gguf" and path.is_file():
        return {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    if path.is_dir() and not (path / "config.json").is_file():
        raise _config_error(name, f"the folder {name} has no config.json")
    return {"pretrained_model_name_or_path": resolve_model(name)}


def _config_error(name: str, reason: str) -> ModelError:
    """Return the error for a config that can't be read; it lists the models that need no config file."""
    found = f"can't read the config of {name!r}:"
    if not Path(name).exists():
        near = did_you_mean(name, list_published_models())  # such as ", did you mean 'gpt2-xl'?"
        if near:
            found = f"can't read the config of {name!r}{near}"
    known = ", ".join(list_published_models())
    return ModelError(
        f"{found} {reason}; give a named model, a folder with "
        "config.json, a .gguf file, a hub id whose config can be fetched, or one that is known without: "
        f"{known}"
    )
