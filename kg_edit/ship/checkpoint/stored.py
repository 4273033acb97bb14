"""Read a checkpoint's tensors one at a time: a folder of safetensors files, as transformers writes it.

A safetensors file is 8 bytes (the length n of the header), the header (JSON: name -> dtype, shape, byte range), and the
bytes of the tensors. `Checkpoint` knows where each tensor lies, so one can be read, or replaced, without the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import ModelError, PatchMismatchError
from kg_edit.models.architectures import fingerprint_of
from kg_edit.models.loading import choose_local_files_only, find_gguf_file, resolve_model
from kg_edit.ship.export.merged_model import blank_model

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
# What a model's folder has besides weights: configuration, tokenizer, templates, license. No code, no other weights.
GOES_ALONG = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "NOTICE*")
_LENGTH = 8  # bytes of the header's length
_LARGEST_HEADER = 100_000_000  # bytes, as in the safetensors library


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies: the bytes from ``start`` to ``end`` of ``file``.

    Attributes:
        name: the tensor's name in the file.
        file: the shard.
        dtype: the number type, as the format names it, such as BF16.
        shape: its shape as stored; GPT-2 stores [in, out].
        start: the position of its first byte in the file.
        end: the position after its last byte.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self) -> Tensor:
        """Return the tensor. The file is mapped into memory, so parts that are never read take none."""
        with safe_open(str(self.file), framework="pt") as shard:
            tensor: Tensor = shard.get_tensor(self.name)
            return tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """The tensors of a folder by name, and the modules of its ``config.json`` without weights (`blank_model`)."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    modules: nn.Module

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Read the headers of all shards; no tensor is read.

        Raises:
            ModelError: the folder has no safetensors files, one of them is missing or damaged, or the weights are
                quantised.
        """
        folder = Path(folder)
        tensors: dict[str, StoredTensor] = {}
        for file in shards_of(folder):
            tensors |= _list_tensors(file)
        modules = blank_model(str(folder))
        _refuse_quantised_weights(folder, modules)
        return cls(folder=folder, tensors=tensors, modules=modules)

    @classmethod
    def of(cls, model: str) -> Checkpoint:
        """Open the checkpoint of a model: a folder, or a hub id, whose files are downloaded if they are not there.

        A GGUF file, or a named model that is one, is dequantised into a folder of the cache, as for loading it.

        Raises:
            ModelError: the model has no safetensors files.
        """
        folder = checkpoint_folder(model)
        if folder is None and find_gguf_file(model) is not None:
            folder = Path(resolve_model(model))
        if folder is None:
            raise ModelError(f"{model} has no safetensors files; give a folder or a hub id of a model that has")
        return cls.open(folder)

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, sorted by name."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    def find(self, weight: str) -> StoredTensor:
        """Return the tensor of a weight, by its name in the loaded model.

        Some checkpoints leave out the name of the base model ("transformer.") at the front.

        Raises:
            PatchMismatchError: no tensor has this name: another model, or one whose weights are fused or renamed.
        """
        base = f"{getattr(self.modules, 'base_model_prefix', '')}."
        for name in (weight, weight.removeprefix(base)):
            if name in self.tensors:
                return self.tensors[name]
        raise PatchMismatchError(
            f"{self.folder} stores no tensor {weight}; it is another model, or its weights are fused or renamed when "
            "they are loaded; kg-edit patch merge with --dtype loads the model first"
        )

    def is_transposed(self, weight: str) -> bool:
        """Return whether a weight [out, in] is stored as [in, out], as GPT-2's modules (Conv1D) have it."""
        if not weight.endswith(".weight"):
            return False
        return isinstance(self.modules.get_submodule(weight.removesuffix(".weight")), Conv1D)

    def fingerprint(self) -> str:
        """Return the fingerprint that the loaded model has (`content_fingerprint`), reading one tensor at a time."""
        return fingerprint_of(self.modules.config.model_type, self._parameters())  # type: ignore[union-attr, arg-type]

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in sorted(self.modules.named_parameters()):
            tensor = self.find(name).read()
            if tensor.shape != parameter.shape:
                raise ModelError(
                    f"{name} is {list(tensor.shape)} in {self.folder}, and {list(parameter.shape)} by its config.json; "
                    "download the model again"
                )
            yield name, tensor


def _refuse_quantised_weights(folder: Path, modules: nn.Module) -> None:
    """Refuse a folder whose tensors are packed, so that nothing can be added to them where they lie."""
    stored = getattr(modules.config, "quantization_config", None)
    if stored is not None:
        raise ModelError(
            f"the weights in {folder} are quantised, and a change can't be added to them in the files; keep the edits "
            "beside them (kg-edit patch export --to peft), or write plain weights with kg-edit patch merge --dtype "
            "bfloat16, which loads the model first"
        )


def checkpoint_folder(model: str) -> Path | None:
    """Return the folder with the safetensors files of a model: a folder, a hub id (downloaded) or a named model.

    Returns:
        None if the model has only other files, such as a GGUF file.
    """
    if find_gguf_file(model) is not None:  # a GGUF file, whose folder in the cache may have another model's files
        return None
    folder = Path(model)
    if not folder.is_dir():
        patterns = ["*.safetensors", *GOES_ALONG]
        cached = choose_local_files_only(model)
        folder = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=cached))
    has_weights = (folder / INDEX).is_file() or (folder / WEIGHTS).is_file()
    return folder if has_weights else None


def shards_of(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, sorted; as its index lists them, if there is one.

    Raises:
        ModelError: there are none, one is missing, or the index is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        files = [folder / WEIGHTS]
        if not files[0].is_file():
            raise ModelError(f"{folder} has no {WEIGHTS} and no {INDEX}; give the folder of a model in safetensors")
        return files
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is damaged ({error}); download the model again") from error
    files = sorted(folder / name for name in names)
    for file in files:
        if not file.is_file() or file.parent != folder:
            raise ModelError(f"{index} names {file.name}, which is not there; download the model again")
    return files


def _list_tensors(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file, from its header."""
    try:
        return _read_header(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelError(f"{file} is damaged or cut off ({error}); download it again") from error


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """Read the header of a file, which may be damaged, so errors of many types are raised."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH), "little")
        if length > _LARGEST_HEADER:
            raise ValueError("its header is too long")
        header = json.loads(stream.read(length))
    with safe_open(str(file), framework="pt"):  # the library checks the header against the size of the file
        pass
    header.pop("__metadata__", None)
    begin = _LENGTH + length  # of the tensors' bytes, from which the offsets in the header count
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = StoredTensor(
            name=name,
            file=file,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            start=begin + start,
            end=begin + end,
        )
    return tensors


def as_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's numbers as they lie in a file."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
