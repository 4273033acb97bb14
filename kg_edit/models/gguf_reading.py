"""Make transformers read a GGUF file once and quickly, instead of three times and slowly.

transformers reads the file for the tokenizer, for the config and for the weights, and builds its table of tensor names
once for each module. gguf's reader takes each of 300,000 strings and numbers as a slice of a memory map, which costs
numpy some 10 µs more than a slice of an array. For SmolLM2-135M both together are two thirds of the conversion. gguf
dequantises 16 rows at a time, however short they are; with longer ones it is 2 to 20 times as fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
from gguf import dequantize as original_dequantize  # this name stays gguf's own while `read_once` replaces the other
from tqdm import tqdm
from transformers import modeling_gguf_pytorch_utils

_LONG_ROW = 16_384  # numbers in a row that gguf dequantises


class ArrayReader(gguf.GGUFReader):
    """gguf's reader on a plain array over its memory map, with the same fields and tensors.

    The constructor of `gguf.GGUFReader` assigns the memory map to ``self.data``. Here this calls the setter, which
    stores the same memory as a plain array, before the constructor reads the file from ``self.data``.
    """

    @property  # type: ignore[override]
    def data(self) -> np.ndarray[Any, Any]:
        """The bytes of the file, [size], uint8."""
        return self._bytes

    @data.setter
    def data(self, mapped: np.ndarray[Any, Any]) -> None:
        self._bytes = mapped.view(np.ndarray)


def dequantise_tensor(data: np.ndarray[Any, Any], kind: gguf.GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """Return the weights that gguf's ``dequantize`` returns for ``data``, faster.

    A quantised tensor consists of groups of numbers, such as 32, that share a scale (gguf calls them blocks).
    ``dequantize`` takes rows of bytes [rows, bytes], and a row may have any whole number of groups. So the bytes are
    given to it in longer rows than those of the tensor.

    Args:
        data: the bytes of a quantised tensor, [..., bytes of a row], or the numbers of another one.
        kind: how they are stored.

    Returns:
        The weights, [..., numbers of a row].
    """
    numbers_in_group, bytes_in_group = gguf.GGML_QUANT_SIZES[kind]
    groups = data.nbytes // bytes_in_group
    if numbers_in_group == 1 or data.dtype != np.uint8:  # plain numbers
        return np.array(original_dequantize(data, kind))  # not a view of the file
    # The largest number of groups that fits into a long row and divides the number of all groups
    groups_in_row = max(1, _LONG_ROW // numbers_in_group)
    while groups % groups_in_row:
        groups_in_row -= 1
    weights = original_dequantize(data.reshape(-1, groups_in_row * bytes_in_group), kind)
    return weights.reshape(*data.shape[:-1], -1)


def read_blocks(path: Path) -> tuple[int, Iterable[str]]:
    """Return the number of transformer blocks that a file's metadata states (else 0), and the names of its tensors.

    Inside `read_once`, the file is not read again for it.
    """
    # There, GGUFReader is a cached function of the path. As transformers does, it is called with a str, because another
    # type would be another key of the cache.
    reader = gguf.GGUFReader(str(path))
    stated = [field.contents() for name, field in reader.fields.items() if name.endswith(".block_count")]
    count = int(stated[0]) if stated else 0
    return count, [tensor.name for tensor in reader.tensors]


@contextmanager
def read_once() -> Iterator[None]:
    """Let transformers read GGUF files quickly inside the ``with`` block; everything is restored at the end.

    Five names are replaced in the modules where transformers looks them up at each use. So transformers takes one
    `ArrayReader` for a file and one name table for an architecture, dequantises by `dequantise_tensor`, does not copy
    the weights (``np.copy``), and writes its bar only to a terminal.
    """
    numpy_without_copies = SimpleNamespace(**vars(np))
    numpy_without_copies.copy = np.ascontiguousarray  # a contiguous array is returned as it is, without a copy
    quicker: list[tuple[Any, str, Any]] = [
        (gguf, "GGUFReader", cache(ArrayReader)),
        (gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
        (gguf, "dequantize", dequantise_tensor),
        (modeling_gguf_pytorch_utils, "np", numpy_without_copies),
        (modeling_gguf_pytorch_utils, "tqdm", partial(tqdm, disable=None)),  # None: no bar without a terminal
    ]
    originals = [(module, name, getattr(module, name)) for module, name, _ in quicker]
    for module, name, replacement in quicker:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)
