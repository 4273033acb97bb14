from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from transformers import modeling_gguf_pytorch_utils

from kg_edit.models.gguf_reading import ArrayReader, dequantise_tensor, read_once


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small GGUF file: a text, a list of texts, a number, a quantised and a plain tensor."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_token_list(["a", "é", ""])
    writer.add_context_length(2048)
    weight = np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 64)
    kind = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("blk.0.ffn_down.weight", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_array_reader_equals_the_librarys_reader(file: Path) -> None:
    ours, plain = ArrayReader(file), gguf.GGUFReader(file)
    assert type(ours.data) is np.ndarray
    assert {name: field.contents() for name, field in ours.fields.items()} == {
        name: field.contents() for name, field in plain.fields.items()
    }
    assert [(tensor.name, tensor.tensor_type, list(tensor.shape)) for tensor in ours.tensors] == [
        (tensor.name, tensor.tensor_type, list(tensor.shape)) for tensor in plain.tensors
    ]
    for one, other in zip(ours.tensors, plain.tensors, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_read_once_caches_readers_and_restores_the_library(file: Path) -> None:
    original = gguf.GGUFReader, gguf.get_tensor_name_map, gguf.dequantize
    with pytest.raises(ZeroDivisionError), read_once():
        assert gguf.GGUFReader(file) is gguf.GGUFReader(file)
        raise ZeroDivisionError
    assert (gguf.GGUFReader, gguf.get_tensor_name_map, gguf.dequantize) == original


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (7, 2)])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K", "BF16"])
def test_weights_are_those_of_the_library(kind: str, shape: tuple[int, ...]) -> None:
    """Also of matrices whose rows can't be joined evenly; the blocks are random bytes."""
    quantisation = gguf.GGMLQuantizationType[kind]
    size = gguf.GGML_QUANT_SIZES[quantisation][1]
    data = np.random.default_rng(0).integers(0, 60, (*shape, 9 * size), dtype=np.uint8)
    np.testing.assert_array_equal(dequantise_tensor(data, quantisation), gguf.dequantize(data, quantisation))
    plain = np.ones((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(dequantise_tensor(plain, gguf.GGMLQuantizationType.F32), plain)


def test_transformers_writes_no_bar_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with read_once():
        assert list(modeling_gguf_pytorch_utils.tqdm(range(3), desc="Converting")) == [0, 1, 2]
    assert "Converting" not in capsys.readouterr().err
    assert (
        list(modeling_gguf_pytorch_utils.tqdm(range(3), desc="Converting")) and "Converting" in capsys.readouterr().err
    )
