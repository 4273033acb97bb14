"""The file format of patches: a safetensors file with the format's name and the provenance as JSON in its metadata.

`write_patch` and `read_patch` handle named tensors of any kind of patch; `patch_class` finds the class for a format
(``kg-edit-patch/1``, ``kg-edit-codebook/1``, ``kg-edit-prompt/1``, ``kg-edit-loop/1``, ``kg-edit-side/1``,
``kg-edit-scope/1``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from kg_edit.errors import PatchError
from kg_edit.patches.provenance import check_provenance
from kg_edit.storage.atomic import write_safetensors
from wikidata_cache.safe_json import parse

if TYPE_CHECKING:  # the metadata of a patch can be read without torch
    from torch import Tensor

WEIGHTS, CODEBOOK, PROMPT, LOOP, SIDE, SCOPE = (
    f"kg-edit-{kind}/1" for kind in ("patch", "codebook", "prompt", "loop", "side", "scope")
)

_CLASSES = {
    WEIGHTS: "kg_edit.patches.weight_patch:WeightPatch",
    CODEBOOK: "kg_edit.methods.grace.patch:CodebookPatch",
    PROMPT: "kg_edit.patches.prompt_patch:PromptPatch",
    LOOP: "kg_edit.methods.mello.patch:LoopPatch",
    SIDE: "kg_edit.patches.adapter_patch:SidePatch",
    SCOPE: "kg_edit.methods.serac.patch:ScopePatch",
}

_METADATA = "kg_edit"


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchFile:
    """The content of a patch's file: its path, the format's name, the provenance, and the tensors by name."""

    path: str
    format: str
    provenance: dict[str, Any]
    tensors: dict[str, Tensor]


def write_patch(path: str | Path, *, format: str, provenance: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write a patch atomically; the same patch gives the same bytes.

    Raises:
        PatchError: a tensor is not finite.
        OutputError: the file can't be written.
    """
    import torch

    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise PatchError(f"the change of {name} is not finite; nothing was written")
    said = json.dumps({"format": format, "provenance": provenance}, sort_keys=True)
    cleaned = _apart({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
    return write_safetensors(Path(path), cleaned, {_METADATA: said})  # one key, because the order of keys is not fixed


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where an earlier one has the same memory, which safetensors refuses to write."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def read_patch(path: str | Path) -> PatchFile:
    """Read what `write_patch` wrote.

    Raises:
        PatchError: the file is missing, is not a patch, or lacks a valid provenance.
    """
    import torch

    said, tensors = _read(path, "pt")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise PatchError(f"the patch {path} has values of {name} of the type {tensor.dtype}; expected real numbers")
        if not torch.isfinite(tensor).all():
            raise PatchError(f"the patch {path} has values of {name} that are not finite; make the patch again")
    return PatchFile(path=str(path), format=said["format"], provenance=said["provenance"], tensors=tensors)


def check_patch_file(path: str | Path) -> None:
    """Check the metadata of a patch's file, without torch and without reading its tensors.

    Raises:
        PatchError: the file is missing, is not a patch, or lacks a valid provenance.
    """
    _read(path, None)


def read_arrays(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a patch's provenance, and its tensors as numpy arrays; bfloat16 becomes float32.

    Raises:
        PatchError: as `read_patch`.
    """
    import numpy as np

    try:
        said, arrays = _read(path, "np")
    except TypeError:  # numpy has no bfloat16
        file = read_patch(path)
        return file.provenance, {name: tensor.float().numpy() for name, tensor in file.tensors.items()}
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise PatchError(f"the patch {path} has values of {name} of the type {array.dtype}; expected real numbers")
        if not np.isfinite(array).all():
            raise PatchError(f"the patch {path} has values of {name} that are not finite; make the patch again")
    return said["provenance"], arrays


def _read(path: str | Path, framework: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the metadata of a file, and its tensors for ``framework``; no tensors if it is None."""
    try:
        with safe_open(path, framework=framework or "np") as file:
            said = parse((file.metadata() or {}).get(_METADATA, "{}"))
            names = file.keys() if framework else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise PatchError(f"can't read the patch {path}: there is no such file; check the path") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise PatchError(f"can't read the patch {path}: {error}; give a complete patch.safetensors") from error
    found = said.get("format") if isinstance(said, dict) else said
    if not isinstance(found, str) or found not in _CLASSES:
        raise PatchError(f"{path} is not a patch: expected one of the formats {', '.join(_CLASSES)}, found {found!r}")
    check_provenance(said.get("provenance"), path)
    return said, tensors


def patch_class(file: PatchFile) -> Any:
    """The class for the format of a file; its ``from_file`` builds the patch."""
    module, _, name = _CLASSES[file.format].partition(":")
    return getattr(import_module(module), name)
