"""The file format of patches: named tensors as safetensors, with all else as JSON in the metadata.

    {"format": "kg-edit-patch", "version": 1, "kind": "weights", "provenance": {...}, "content": ...}

``kind`` selects the class that reads the file, by its entry in the registry: ``weights``, ``prompt`` and ``adapters``
of this folder, others of the methods that have a patch class of their own. ``content`` is what that class needs besides
the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from kg_common.json_text import parse
from kg_edit.errors import PatchError
from kg_edit.patches.provenance import check_provenance
from kg_edit.registry import load, patch_entries
from kg_edit.storage.atomic import write_safetensors

if TYPE_CHECKING:  # the metadata of a patch can be read without torch
    from torch import Tensor

FORMAT = "kg-edit-patch"
VERSION = 1
_REAL = ("F64", "F32", "F16", "BF16")  # safetensors' names of the types of numbers that a patch may have
METADATA = "kg_edit"  # the one key of the metadata, because safetensors does not keep the order of keys


def patch_class(kind: str) -> Any:
    """Return the class that reads files of this kind; its ``from_file`` builds the patch."""
    entry = patch_entries().get(kind)
    if entry is None:
        raise PatchError(f"no class reads patches of the kind {kind!r}; install the package that made it")
    return load(entry.target)


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchFile:
    """The parts of a patch's file: its path, its kind, the provenance, the content of the kind, the tensors by name."""

    path: str
    kind: str
    provenance: dict[str, Any]
    content: Any
    tensors: dict[str, Tensor]


def write_patch(
    path: str | Path,
    *,
    kind: str,
    provenance: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    content: Any,
) -> Path:
    """Write a patch atomically; the same patch gives the same bytes.

    Args:
        path: the file.
        kind: what `patch_class` needs to find the class that reads it.
        provenance: as `Patch.provenance`.
        tensors: by name, of any device and floating-point type.
        content: JSON that the class needs besides the tensors.
    """
    import torch

    cleaned = dict[str, "Tensor"]()
    addresses = set[int]()
    for name, tensor in sorted(tensors.items()):
        if not torch.isfinite(tensor).all():
            raise PatchError(f"the change of {name} is not finite; nothing was written")
        cleaned[name] = tensor.detach().cpu().contiguous()
        address = cleaned[name].untyped_storage().data_ptr()
        if address in addresses:  # safetensors refuses to write tensors that share memory
            cleaned[name] = cleaned[name].clone()
        addresses.add(address)
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind, "provenance": provenance, "content": content}
    return write_safetensors(Path(path), cleaned, {METADATA: json.dumps(metadata, sort_keys=True)})


def read_patch(path: str | Path) -> PatchFile:
    """Read a file of `write_patch`."""
    import torch

    metadata, tensors = _read(path, "pt")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise _not_finite(path, name)
    return PatchFile(
        path=str(path),
        kind=metadata["kind"],
        provenance=metadata["provenance"],
        content=metadata["content"],
        tensors=tensors,
    )


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Return a patch's provenance, checked, without torch and without reading its tensors."""
    metadata, _ = _read(path, None)
    provenance: dict[str, Any] = metadata["provenance"]
    return provenance


def read_arrays(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the metadata (kind, provenance, content), and the tensors as numpy arrays; bfloat16 becomes float32."""
    import numpy as np

    try:
        metadata, arrays = _read(path, "np")
    except TypeError:  # safetensors raises it for bfloat16, which numpy does not have
        return _read_arrays_by_torch(path)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise _not_finite(path, name)
    return metadata, arrays


def _read_arrays_by_torch(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `read_arrays` does, with every tensor in float32."""
    file = read_patch(path)
    arrays = {name: tensor.float().numpy() for name, tensor in file.tensors.items()}
    return {"kind": file.kind, "provenance": file.provenance, "content": file.content}, arrays


def _read(path: str | Path, framework: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the metadata of a file, and its tensors for ``framework`` ("pt" or "np"); no tensors if it is None."""
    tensors = dict[str, Any]()
    try:
        with safe_open(path, framework=framework or "np") as file:
            texts = file.metadata() or {}
            metadata = parse(texts.get(METADATA, "{}"))
            if framework is not None:
                _check_types(file, path)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise PatchError(f"can't read the patch {path}: there is no such file; check the path") from error
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, SafetensorError) and Path(path).suffix != ".safetensors":
            raise PatchError(f"{path} is not a patch; give a .safetensors file of kg-edit") from error
        raise PatchError(
            f"can't read the patch {path}: {error}; give a complete patch.safetensors, as kg-edit edit writes it"
        ) from error
    _check_metadata(metadata, path)
    return metadata, tensors


def _check_types(file: Any, path: str | Path) -> None:
    """Check that all tensors of an opened file are of real numbers."""
    for name in file.keys():  # noqa: SIM118 - not a dict
        dtype = str(file.get_slice(name).get_dtype())
        if dtype not in _REAL:
            raise PatchError(
                f"the patch {path} has values of {name} of the type {dtype}; expected real numbers: {', '.join(_REAL)}"
            )


def _check_metadata(metadata: Any, path: str | Path) -> None:
    """Check that the metadata of a file are those of a patch in this version of the format."""
    found = metadata
    if isinstance(metadata, dict):
        found = metadata.get("format")
    if found != FORMAT or not isinstance(metadata, dict):
        raise PatchError(f"{path} is not a patch: expected the format {FORMAT}, found {found!r:.80}")
    if metadata.get("version") != VERSION:
        raise PatchError(
            f"the patch {path} has the version {metadata.get('version')!r:.80} of the format, and this program reads "
            f"version {VERSION}; install a later kg-edit"
        )
    if not isinstance(metadata.get("kind"), str) or "content" not in metadata:
        raise PatchError(f"the patch {path} lacks its kind or its content; make the patch again")
    check_provenance(metadata.get("provenance"), path)


def _not_finite(path: str | Path, name: str) -> PatchError:
    """Return the error for a tensor of a patch's file with infinite values or NaN."""
    return PatchError(f"the patch {path} has values of {name} that are not finite; make the patch again")
