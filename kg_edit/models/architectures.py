"""The module paths of each model family (`ModelSpec`), in the table `ARCHITECTURES`, one row for each ``model_type``.

A third party adds a family by an entry point in the group ``kg_edit.architectures`` (name: the ``model_type``, value: a
`ModelSpec`), or passes a `ModelSpec` to `LanguageModel.load`. `content_fingerprint` identifies a model by its weights,
independent of its name and path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NoReturn

from kg_edit.errors import UnsupportedModelError

if TYPE_CHECKING:  # other modules read the table without loading a model
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

ENTRY_POINTS = "kg_edit.architectures"
FORMAT = "2-"  # prefix of a fingerprint; the first format, which read one column of most matrices, had no prefix
_HALF = 2  # bytes of a number: a type with fewer is a quantised one
_PACKED_ELEMENTS = 4096  # elements that are read of a matrix whose rows and columns a quantisation has packed


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Module paths of one model family, relative to the causal language model.

    ``down_projection`` is relative to a block: the second matrix of the MLP. Its input is the key, its output the
    value. It is None for a mixture of experts, which has many: the methods that read it refuse the model.
    ``project_out`` is an optional projection between final norm and head (OPT-350M). ``attention``, also relative to a
    block, is only needed for causal tracing and by PMET.
    """

    blocks: str
    down_projection: str | None
    final_norm: str
    project_out: str | None = None
    attention: str = "self_attn"


_LLAMA_LIKE = ModelSpec(blocks="model.layers", down_projection="mlp.down_proj", final_norm="model.norm")
_WITH_IMAGES = ModelSpec(  # the text model of a model that also reads images
    blocks="model.language_model.layers", down_projection="mlp.down_proj", final_norm="model.language_model.norm"
)
_LFM = ModelSpec(blocks="model.layers", down_projection="feed_forward.w2", final_norm="model.embedding_norm")
_EXPERTS = ModelSpec(blocks="model.layers", down_projection=None, final_norm="model.norm")


def _gpt_like(down_projection: str, attention: str = "attn") -> ModelSpec:
    return ModelSpec(
        blocks="transformer.h", down_projection=down_projection, final_norm="transformer.ln_f", attention=attention
    )


ARCHITECTURES: dict[str, ModelSpec] = {
    "apertus": _LLAMA_LIKE,
    "arcee": _LLAMA_LIKE,
    "bloom": _gpt_like("mlp.dense_4h_to_h", "self_attention"),
    "codegen": _gpt_like("mlp.fc_out"),
    "cohere": _LLAMA_LIKE,
    "cohere2": _LLAMA_LIKE,
    "cwm": _LLAMA_LIKE,
    "ernie4_5": _LLAMA_LIKE,
    "exaone4": _LLAMA_LIKE,
    "falcon": _gpt_like("mlp.dense_4h_to_h", "self_attention"),
    "gemma": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3": _WITH_IMAGES,
    "gemma3_text": _LLAMA_LIKE,
    "gemma4": _WITH_IMAGES,
    "gemma4_text": _LLAMA_LIKE,
    "gemma4_unified": _WITH_IMAGES,
    "gemma4_unified_text": _LLAMA_LIKE,
    "glm": _LLAMA_LIKE,
    "glm4": _LLAMA_LIKE,
    "gpt2": _gpt_like("mlp.c_proj"),
    "gpt_bigcode": _gpt_like("mlp.c_proj"),
    "gpt_neo": _gpt_like("mlp.c_proj"),
    "gpt_neox": ModelSpec(
        blocks="gpt_neox.layers",
        down_projection="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
    ),
    "gptj": _gpt_like("mlp.fc_out"),
    "granite": _LLAMA_LIKE,
    "granite_swa": _LLAMA_LIKE,
    "helium": _LLAMA_LIKE,
    "hunyuan_v1_dense": _LLAMA_LIKE,
    "lfm2": _LFM,
    "lfm3": _LFM,
    "llama": _LLAMA_LIKE,
    "ministral": _LLAMA_LIKE,
    "ministral3": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "mpt": ModelSpec(
        blocks="transformer.blocks", down_projection="ffn.down_proj", final_norm="transformer.norm_f", attention="attn"
    ),
    "nanochat": ModelSpec(blocks="model.layers", down_projection="mlp.fc2", final_norm="model.norm"),
    "nemotron": _LLAMA_LIKE,
    "olmo": _LLAMA_LIKE,
    "olmo2": _LLAMA_LIKE,
    "olmo3": _LLAMA_LIKE,
    "opt": ModelSpec(
        blocks="model.decoder.layers",
        down_projection="fc2",
        final_norm="model.decoder.final_layer_norm",
        project_out="model.decoder.project_out",
    ),
    "phi": ModelSpec(blocks="model.layers", down_projection="mlp.fc2", final_norm="model.final_layernorm"),
    "phi3": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "qwen3_5": _LLAMA_LIKE,
    "qwen3_5_text": _LLAMA_LIKE,
    "seed_oss": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE,
    "stablelm": _LLAMA_LIKE,
    "starcoder2": ModelSpec(blocks="model.layers", down_projection="mlp.c_proj", final_norm="model.norm"),
    "vaultgemma": _LLAMA_LIKE,
}


def known_architectures() -> dict[str, ModelSpec]:
    """Return the table and the rows that plug-ins add. A plug-in can't replace a row of the table."""
    known = dict(ARCHITECTURES)
    for entry in entry_points(group=ENTRY_POINTS):
        spec = entry.load()
        if entry.name in known or not isinstance(spec, ModelSpec):
            raise UnsupportedModelError(
                f"entry point {entry.value!r} of group {ENTRY_POINTS}: expected a ModelSpec for a model_type that is "
                f"not in the table, found {type(spec).__name__} for {entry.name!r}; uninstall or fix this plug-in"
            )
        known[entry.name] = spec
    return known


def find_spec(config: PreTrainedConfig) -> ModelSpec:
    """Return the row of the table for ``config.model_type``; a mixture of experts without a row has `_EXPERTS`.

    A model whose blocks share keys and values is refused, whatever its type.
    """
    known = known_architectures()
    text = config.get_text_config()
    if getattr(text, "num_kv_shared_layers", 0):
        raise UnsupportedModelError(
            f"models of type {config.model_type!r} whose upper blocks read the keys and values of a lower one (such as "
            "Gemma 4 E2B) can't be edited: these can't be shared between prompts; take a model without shared keys"
        )
    if config.model_type in known:
        return known[config.model_type]
    if any(getattr(text, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts")):
        return _EXPERTS
    raise UnsupportedModelError(
        f"models of type {config.model_type!r} can't be edited yet; known types: {', '.join(sorted(known))}. "
        "To add this family, give its module paths, which print(model) shows. In Python: "
        'LanguageModel.load(NAME, spec=ModelSpec(blocks="model.layers", down_projection="mlp.down_proj", '
        f'final_norm="model.norm")); for the commands: a ModelSpec in the entry-point group {ENTRY_POINTS!r} '
        "(docs/models.md, Another family)"
    )


def refuse_experts(name: str) -> NoReturn:
    """Refuse a mixture of experts of this name, for a method that reads the down-projection."""
    raise UnsupportedModelError(
        f"{name} is a mixture of experts: its blocks have no single second matrix to read and edit; "
        "take a method that puts the fact into the prompt (rag, ike, definition), or lora"
    )


def refuse_recurrent(name: str) -> NoReturn:
    """Refuse a model of this name with recurrent blocks, for a method that keeps keys and values."""
    raise UnsupportedModelError(
        f"{name} has recurrent blocks, and this method keeps the attention's keys and values of the "
        "beginnings of prompts; take rome, memit or another method without"
    )


def refuse_quantised(method: str) -> NoReturn:
    """Refuse a quantised model for a method of this name, which trains or rewrites the stored weights."""
    raise UnsupportedModelError(
        f"{method} changes the stored weights, and this model's are quantised; take a method whose change stays beside "
        "them (rome, glame, memit, alphaedit, lora, grace) or in the prompt (rag, graph-memory), or load the model in "
        "bfloat16"
    )


def width_of_experts(text: PreTrainedConfig) -> int:
    """Return the inner width of all experts of a token together, from the config of a mixture's blocks."""
    width = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
    return int(width * text.num_experts_per_tok)


def check_spec(model: PreTrainedModel, spec: ModelSpec) -> None:
    """Check that ``blocks`` and ``down_projection`` of ``spec`` lead to modules, and that the weight can be edited."""
    from torch import nn

    try:
        first = model.get_submodule(spec.blocks)[0]  # type: ignore[index]
        if spec.down_projection is None:
            return
        down = first.get_submodule(spec.down_projection)
    except (AttributeError, IndexError, TypeError) as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not fit its ModelSpec {spec}: {error}; give the right module paths"
        ) from error
    weight = getattr(down, "weight", None)
    is_linear = hasattr(down, "in_features")  # also one with a quantised weight, of another shape or name
    if not is_linear and not (isinstance(weight, nn.Parameter) and weight.dim() == 2):
        raise UnsupportedModelError(
            f"{spec.blocks}.0.{spec.down_projection} is a {type(down).__name__}, which is not a linear layer; give the "
            "path of the block's second matrix"
        )


def is_quantised(module: nn.Module) -> bool:
    """Return whether a linear layer stores its weight in fewer bits than it computes with."""
    from torch import Tensor

    if not hasattr(module, "in_features"):
        return False
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return True  # compressed-tensors packs it into a tensor of another name
    return not weight.is_floating_point() or weight.dtype.itemsize < _HALF


def optional_module(model: nn.Module, path: str | None) -> nn.Module | None:
    """Return the module at ``path``; None if there is no path or no module (an OPT without final norm)."""
    from torch import nn

    if path is None:
        return None
    parent, _, name = path.rpartition(".")
    module = getattr(model.get_submodule(parent), name, None)
    return module if isinstance(module, nn.Module) else None


def content_fingerprint(model: PreTrainedModel) -> str:
    """Return a hash of the family and of every parameter: its name, shape, and an element of each row and each column.

    Of a weight that a quantisation has packed, which has no rows and columns, these are elements at equal distances.

    A change of a whole row or column changes the hash, and so does any change of many of them. The elements are rounded
    to bfloat16, so that the hash does not change when the model is cast between float32 and bfloat16; float16 may round
    an element to another one.
    """
    return fingerprint_of(model.config.model_type, sorted(model.named_parameters()))


def fingerprint_of(family: str, parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return `content_fingerprint` from the family (``model_type``) and the parameters, sorted by name."""
    import torch

    digest = hashlib.sha256(family.encode())
    for name, parameter in parameters:
        digest.update(json.dumps([name, list(parameter.shape)]).encode())
        elements = _pick_elements(parameter.detach()).to(torch.bfloat16)
        digest.update(elements.float().cpu().numpy().tobytes())
    return f"{FORMAT}{digest.hexdigest()[:16]}"


def _pick_elements(stored: Tensor) -> Tensor:
    """Return an element of each row and each column of a parameter, as a vector.

    These are the elements (0, 0), (1, 1), … of the matrix. The shorter index starts again from 0 at its end: of a
    matrix [2, 3] they are (0, 0), (1, 1), (0, 2).
    """
    import torch

    if not stored.numel():
        return stored.reshape(-1)
    if not stored.is_floating_point():  # packed by a quantisation, which keeps no rows and columns: every n-th element
        step = max(1, stored.numel() // _PACKED_ELEMENTS)
        return stored.reshape(-1)[::step]
    if stored.dim() == 0:  # a single number
        stored = stored.reshape(1)
    matrix = stored.reshape(-1, stored.shape[-1])  # a vector is a matrix with one row
    rows, columns = matrix.shape
    steps = torch.arange(max(rows, columns), device=matrix.device)
    return matrix[steps % rows, steps % columns]
