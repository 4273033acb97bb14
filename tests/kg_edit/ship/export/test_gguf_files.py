"""A patch in GGUF files: their content, bit for bit, and what can't be written."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.export.gguf_files import (
    ADAPTER,
    ARCHITECTURES,
    MODEL,
    rows_in_gguf,
    write_gguf_adapter,
    write_gguf_model,
)
from kg_edit.ship.export.layout import ModuleLayout
from tests.everyday import keep_first
from tests.kg_edit.ship.export.test_peft_adapter import patch_of
from tests.kg_edit.tiny import tiny


def as_gguf(model: LanguageModel, path: Path, *, kind: str = "F32", parts: int = 1) -> Path:
    """The down-projections of a tiny model, and an embedding, as a GGUF file of the kind of numbers."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(1024)  # not the default
    writer.add_name("tiny")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "ü"])
    writer.add_block_count(model.model.config.num_hidden_layers)
    if parts > 1:
        writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_COUNT, parts)
    numbers = gguf.GGMLQuantizationType[kind]
    embedding = np.arange(96, dtype=np.float32).reshape(3, 32)
    q8 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("token_embd.weight", gguf.quantize(embedding, q8), raw_dtype=q8)
    for layer in range(model.model.config.num_hidden_layers):
        weight = weight_matrix(model.down_projection(layer)).detach().numpy()
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", gguf.quantize(weight, numbers), raw_dtype=numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def content(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a GGUF file, and its tensors dequantised."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return fields, tensors


def test_gguf_adapter_has_the_names_shapes_and_scale_of_llama_cpp(tmp_path: Path) -> None:
    model = tiny("llama")
    patch = patch_of(model, {0: 2, 1: 5})
    folder = write_gguf_adapter(
        patch, tmp_path / "a", layout=ModuleLayout(model.model), base="someone/model", card="# Card\n"
    )
    assert {file.name for file in folder.iterdir()} == {ADAPTER, "README.md", "kg_edit.json"}
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    fields, tensors = content(folder / ADAPTER)
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert (fields["general.architecture"], fields["adapter.lora.alpha"]) == ("llama", 5.0)
    assert fields["general.base_model.0.name"] == "someone/model"
    assert sorted(tensors) == [f"blk.{layer}.ffn_down.weight.lora_{side}" for layer in (0, 1) for side in "ab"]
    for layer in (0, 1):
        a, b = (tensors[f"blk.{layer}.ffn_down.weight.lora_{side}"] for side in "ab")
        assert (a.shape, b.shape) == ((5, 48), (32, 5)), "one rank, so alpha / rank is 1 for each"
        assert np.allclose(b @ a, patch.factors[model.weight_name(layer)].product.numpy(), atol=1e-6)


@pytest.mark.parametrize("family", keep_first(ARCHITECTURES, keep=3))
def test_gguf_adapter_names_the_down_projection_of_every_family(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    folder = write_gguf_adapter(patch_of(model, {1: 1}), tmp_path / "a", layout=ModuleLayout(model.model))
    fields, tensors = content(folder / ADAPTER)
    assert fields["general.architecture"] == ARCHITECTURES[family]
    assert sorted(tensors) == ["blk.1.ffn_down.weight.lora_a", "blk.1.ffn_down.weight.lora_b"]


def test_gguf_rows_of_llama_attention_are_permuted(tmp_path: Path) -> None:
    """The order that `LlamaModel.permute` of llama.cpp's converter gives."""
    model = tiny("llama").model
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    rows = np.arange(width)
    expected = rows.reshape(heads, 2, width // heads // 2).swapaxes(1, 2).reshape(-1)
    order = rows_in_gguf("blk.0.attn_q.weight", ModuleLayout(model))
    assert np.array_equal(rows[order], expected) and not np.array_equal(expected, rows)
    query = Factors(left=torch.randn(width, 1), right=torch.randn(width, 1))
    patch = WeightPatch(factors={"model.layers.0.self_attn.q_proj.weight": query}, provenance={})
    _, tensors = content(write_gguf_adapter(patch, tmp_path / "a", layout=ModuleLayout(model)) / ADAPTER)
    assert np.array_equal(tensors["blk.0.attn_q.weight.lora_b"], query.left.numpy()[expected])


@pytest.mark.parametrize(("kind", "written", "close"), [("F32", "F32", 1e-6), ("F16", "F16", 2e-3)])
def test_gguf_model_differs_only_in_the_edited_tensors(kind: str, written: str, close: float, tmp_path: Path) -> None:
    model = tiny("llama")
    base = as_gguf(model, tmp_path / "base.gguf", kind=kind)
    patch = patch_of(model, {1: 2})
    folder = write_gguf_model(patch, tmp_path / "m", model=model, base=base, kind=written)
    (before, old), (after, new) = content(base), content(folder / MODEL)
    assert after.pop("kg_edit.edits") == 0
    assert after == before, "every field is copied"
    assert list(old) == list(new)
    name = "blk.1.ffn_down.weight"
    assert all(np.array_equal(old[other], new[other]) for other in old if other != name)
    expected = old[name] + patch.factors[model.weight_name(1)].product.numpy()
    assert np.allclose(new[name], expected, atol=close) and not np.allclose(new[name], old[name], atol=close)
    assert (folder / MODEL).stat().st_mode & 0o777 == 0o644


def test_gguf_model_of_a_file_with_an_empty_array(tmp_path: Path) -> None:
    model = tiny("llama")
    base = as_gguf(model, tmp_path / "base.gguf")
    name, empty = struct.pack("<IQ", 8, 4) + b"tiny", struct.pack("<IIQ", 9, 8, 0)  # a text; no texts
    base.write_bytes(base.read_bytes().replace(name, empty))
    assert content(base)[0].pop("general.name") == []
    folder = write_gguf_model(patch_of(model, {1: 2}), tmp_path / "m", model=model, base=base)
    assert content(base)[0].keys() - content(folder / MODEL)[0].keys() == {"general.name"}
