"""Export a patch of weights for llama.cpp: as a LoRA adapter in a GGUF file, or merged into a GGUF model.

The adapter has the format of llama.cpp's ``convert_lora_to_gguf.py``: ``general.type`` adapter, ``adapter.type`` lora,
and for a weight [out, in] such as ``blk.6.ffn_down.weight`` the tensors ``.lora_a`` [r, in] and ``.lora_b`` [out, r].
llama.cpp computes W x + (alpha / r) B A x with ``adapter.lora.alpha`` and the rank r of each tensor; `with_one_rank`
makes the scale 1. W stays quantised, the change is float32.

A merged model is a copy of a GGUF file in which only the edited tensors are dequantised, changed and written again. All
other tensors are unchanged, bit for bit.

For families whose attention llama.cpp stores in another order (Llama's query and key rows), the rows of the change are
put into that order (`rows_in_gguf`). Fused attention is not supported and raises an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from numpy.typing import NDArray

from kg_edit.errors import ModelError, PatchError, PatchMismatchError, unknown_name
from kg_edit.patches.changes import Changes
from kg_edit.ship.export.folders import new_folder, write_notes
from kg_edit.ship.export.layout import Layout, ModuleLayout
from kg_edit.ship.export.peft_adapter import check_layout, with_one_rank

if TYPE_CHECKING:  # an adapter is written without torch
    from kg_edit.models.gguf_reading import ArrayReader
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch

# Names of the files in the folder that is written
ADAPTER = "adapter.gguf"
MODEL = "model.gguf"
KINDS = ("F32", "F16", "BF16", "Q8_0")  # number types in which edited tensors may be written

ARCHITECTURES: Mapping[str, str] = {
    "falcon": "falcon",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "llama": "llama",
    "mistral": "llama",
    "olmo2": "olmo2",
    "phi": "phi2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""llama.cpp's name of a model family, by transformers' ``model_type``; llama.cpp does not run OPT and GPT-J."""

_ALIKE = ("ffn_down", "ffn_up", "ffn_gate", "attn_output", "attn_v")  # same order of rows and columns in both programs
_TURNED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}  # rows in another order, for Llama
# The largest distance of the file's weight from the model's, in norms of the weight. 2-bit quantisation differs by
# about 0.25, the weight of another model by sqrt(2).
_FAR = 0.3
_MARK = "kg_edit"  # prefix of our own keys in a file's metadata

Array = NDArray[Any]


def write_gguf_adapter(
    patch: Patch | Changes, folder: str | Path, *, layout: Layout, base: str | None = None, card: str | None = None
) -> Path:
    """Write ``folder`` with ``adapter.gguf``, which llama.cpp loads with the base model in any quantisation.

    Args:
        patch: the patch of weights.
        folder: a new or empty folder.
        layout: how the model holds the weights (`layout_for`).
        base: the model's name for the file's metadata.
        card: the text of ``README.md``.
    """
    factors = with_one_rank(patch)
    check_layout(factors, layout)
    arch = architecture_of(layout)
    names = tensor_names(factors, layout)
    orders = {name: rows_in_gguf(names[name], layout) for name in factors}
    with new_folder(Path(folder)) as scratch:
        writer = gguf.GGUFWriter(scratch / ADAPTER, arch)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(max(pair.left.shape[1] for pair in factors.values())))
        writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
        if base:
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, base)
        _sign(writer, patch)
        for name, pair in factors.items():
            right = np.ascontiguousarray(pair.right.T, np.float32)
            left = np.ascontiguousarray(pair.left, np.float32)
            writer.add_tensor(f"{names[name]}.lora_a", right)  # A [r, in]
            writer.add_tensor(f"{names[name]}.lora_b", left[orders[name]])  # B [out, r]
        _write(writer)
        write_notes(scratch, patch.provenance, card)
    return Path(folder)


def write_gguf_model(
    patch: Patch,
    folder: str | Path,
    *,
    model: LanguageModel,
    base: str | Path,
    kind: str = "F32",
    card: str | None = None,
) -> Path:
    """Write ``folder`` with ``model.gguf``: the GGUF file ``base`` with the patch merged into the edited tensors.

    Args:
        patch: the patch of weights.
        folder: a new or empty folder.
        model: the unedited model that the patch is for.
        base: the same model as a GGUF file, in any quantisation that the package gguf can read.
        kind: the number type of the edited tensors, one of `KINDS`.
        card: the text of ``README.md``.
    """
    from kg_edit.ship.export.merged_model import check_mergeable

    if kind not in KINDS:
        raise unknown_name("kind of numbers", kind, KINDS)
    check_mergeable(patch, folder)
    patch.check_model(model)
    reader = _open_whole(Path(base))
    quantised = dict[str, Array]()
    for name, weight in _edit_tensors(patch, model, reader, Path(base)).items():
        try:
            quantised[name] = gguf.quantize(weight, gguf.GGMLQuantizationType[kind])
        except gguf.QuantError as error:  # quantised rows consist of blocks of 32 numbers
            raise PatchError(f"{name} has {weight.shape[1]} columns, which {kind} can't store; use F16") from error

    with new_folder(Path(folder)) as scratch:
        field = reader.get_field(gguf.Keys.General.ARCHITECTURE)
        arch = field.contents() if field else ""
        writer: Any = gguf.GGUFWriter(scratch / MODEL, arch, endianess=reader.endianess)
        writer.data_alignment = int(reader.alignment)  # the field general.alignment, which is copied, is not enough
        _copy_fields(reader, writer)
        _sign(writer, patch)
        for tensor in reader.tensors:
            if tensor.name in quantised:
                writer.add_tensor(tensor.name, quantised[tensor.name], raw_dtype=gguf.GGMLQuantizationType[kind])
            else:
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        _write(writer)
        write_notes(scratch, patch.provenance, card)
    return Path(folder)


def _open_whole(base: Path) -> ArrayReader:
    """Open a GGUF file that has all tensors of its model."""
    from kg_edit.models.gguf_reading import ArrayReader

    try:
        reader = ArrayReader(base)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"can't read {base} as a GGUF file: {error}; give the base model's .gguf file") from error
    parts = reader.get_field(gguf.Keys.Split.LLM_KV_SPLIT_COUNT)
    if parts and int(parts.contents()) > 1:
        raise ModelError(f"{base} is one part of a split file; join the parts with llama-gguf-split --merge")
    return reader


def _copy_fields(reader: ArrayReader, writer: Any) -> None:
    """Copy a file's metadata, but for the fields that the writer adds itself."""
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", f"{_MARK}.")) or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        value = field.contents()
        if value == []:  # the writer can't write an empty array
            continue
        outer_type = field.types[0]
        item_type = None
        if len(field.types) > 1:  # an array's types are ARRAY and that of its items
            item_type = field.types[-1]
        writer.add_key_value(field.name, value, outer_type, sub_type=item_type)


def _edit_tensors(patch: Patch, model: LanguageModel, reader: ArrayReader, base: Path) -> dict[str, Array]:
    """Return W + left right^T [out, in] of every edited tensor, by llama.cpp's names; W is the weight in the file."""
    from kg_edit.models.language_model import weight_matrix

    layout = ModuleLayout(model.model)
    factors = with_one_rank(patch)
    check_layout(factors, layout)
    names = tensor_names(factors, layout)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    edited = dict[str, Array]()
    for weight_name, pair in factors.items():
        name = names[weight_name]
        if name not in stored:
            raise PatchMismatchError(
                f"{base} has no tensor {name}, which the patch changes; give the base model's file"
            )
        try:
            in_file: Array = gguf.dequantize(stored[name].data, stored[name].tensor_type).astype(np.float32)
        except NotImplementedError as error:
            raise ModelError(
                f"{name} of {base} is {stored[name].tensor_type.name}, which the package gguf can't read; use a "
                "file with another quantisation"
            ) from error
        order = rows_in_gguf(name, layout)
        module = model.model.get_submodule(weight_name.removesuffix(".weight"))
        in_model = weight_matrix(module).detach().float().cpu().numpy()[order]
        _refuse_other_weight(in_file, in_model, name=name, base=base)
        edited[name] = in_file + (pair.left @ pair.right.T)[order]
    return edited


def _refuse_other_weight(in_file: Array, in_model: Array, *, name: str, base: Path) -> None:
    """Refuse a file's weight [out, in] that differs from the model's by more than quantisation."""
    if in_file.shape != in_model.shape:
        raise PatchMismatchError(f"{name} is {in_file.shape} in {base}, but {in_model.shape} in the patch's model")
    norm = max(float(np.linalg.norm(in_model)), 1e-12)  # a weight of zeros differs by any change
    distance = float(np.linalg.norm(in_file - in_model)) / norm
    if distance > _FAR:
        raise PatchMismatchError(
            f"{name} of {base} differs from the weight that the patch was made for by {distance:.2f} of its norm (more "
            f"than {_FAR}, which quantisation does not explain); give the base model's file"
        )


def _sign(writer: Any, patch: Patch | Changes) -> None:
    """Record the number of edits and their methods in the file's metadata."""
    methods = sorted({str(record.get("method")) for record in patch.edits})
    writer.add_uint32(f"{_MARK}.edits", len(patch.edits))
    writer.add_string(f"{_MARK}.methods", ", ".join(methods))


def _write(writer: Any) -> None:
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def architecture_of(layout: Layout) -> str:
    """Return llama.cpp's name of a model's family."""
    kind = str(layout.config.model_type)
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"kg-edit can't write GGUF files for models of type {kind!r}; it can for {', '.join(ARCHITECTURES)}. Write "
            "a PEFT adapter or a merged folder instead"
        )
    return ARCHITECTURES[kind]


def tensor_names(weights: Iterable[str], layout: Layout) -> dict[str, str]:
    """Return llama.cpp's names of weights: ``model.layers.6.mlp.down_proj.weight`` is ``blk.6.ffn_down.weight``."""
    archs = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    blocks = int(layout.config.num_hidden_layers)
    name_map = gguf.get_tensor_name_map(archs[architecture_of(layout)], blocks)
    names = dict[str, str]()
    for weight in weights:
        name = name_map.get_name(weight, try_suffixes=(".weight",))
        if name is None:
            raise PatchError(f"llama.cpp has no tensor for {weight}; write a PEFT adapter or a merged folder instead")
        names[weight] = str(name)
    return names


def rows_in_gguf(name: str, layout: Layout) -> Array | slice:
    """Return the order in which llama.cpp stores the rows of a weight [out, in]; ``name`` is llama.cpp's name of it.

    For Llama's query and key weights, llama.cpp rotates pairs of neighbouring rows by the same angle (RoPE), and
    transformers rotates pairs of rows that are half a head apart. This permutes the rows as ``convert_hf_to_gguf.py``
    does: with h rows a head, row i of a head's first half goes to 2 i, and row h/2 + i to 2 i + 1. One head of 4 rows
    is stored in the order 0, 2, 1, 3.
    """
    _, _, part = name.removesuffix(".weight").rpartition(".")  # such as attn_q of blk.6.attn_q
    if part in _ALIKE or (part in _TURNED and architecture_of(layout) != "llama"):
        return slice(None)
    if part not in _TURNED:
        raise PatchError(
            f"llama.cpp may store the rows of {name} in another order; write a PEFT adapter or a merged folder instead"
        )
    config = layout.config
    heads = getattr(config, _TURNED[part], None) or config.num_attention_heads
    rows_per_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rows = np.arange(heads * rows_per_head).reshape(heads, 2, rows_per_head // 2)  # [head, half, row of the half]
    return rows.swapaxes(1, 2).reshape(-1)  # [head, row of the half, half], flat
