"""Writing tensors atomically; apart from `files`, so that who writes text need not wait for torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from kg_edit.errors import OutputError
from kg_edit.storage.atomic import replacing


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors with metadata, atomically.

    Raises:
        OutputError: the file can't be written (a full disk too).
    """
    with replacing(path) as scratch:
        try:
            save_file(dict(tensors), scratch, metadata=dict(metadata))
        except SafetensorError as error:  # a full disk comes as this, not as an OSError
            raise OutputError(f"can't write {path}: {error}; make room, or choose another folder") from error
    return path
