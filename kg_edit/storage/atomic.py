"""Text, JSON and tensors written atomically: a reader sees the old file or the new one, never half of one.

Each file is written beside its place under another name, and renamed (`os.replace`) when it is complete.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kg_edit.errors import OutputError

if TYPE_CHECKING:  # who writes text need not wait for torch
    from torch import Tensor


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically; ``path`` again.

    Raises:
        OutputError: the file can't be written.
    """
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: object) -> Path:
    """Write ``value`` as JSON, indented and with sorted keys, atomically; ``path`` again.

    Raises:
        OutputError: the file can't be written.
    """
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors with metadata, atomically; ``path`` again.

    Raises:
        OutputError: the file can't be written (a full disk too).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as scratch:
        try:
            save_file(dict(tensors), scratch, metadata=dict(metadata))
        except SafetensorError as error:  # a full disk comes as this, not as an OSError
            raise OutputError(f"can't write {path}: {error}; make room, or choose another folder") from error
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path`` that takes its place at the end of the block, and vanishes on an error.

    Raises:
        OutputError: the folder can't be made, or the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        scratch = Path(name)
        try:
            yield scratch
            scratch.chmod(0o644)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror or error}; choose another folder") from error
