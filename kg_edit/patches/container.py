"""The file of a patch: safetensors, with the format's name and the provenance as JSON in the metadata.

`write_patch` and `read_patch` take tensors by name, whatever kind of patch they belong to; `patch_class` finds the
class for a format (``kg-edit-patch/1``, ``kg-edit-codebook/1``, ``kg-edit-prompt/1``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.storage.atomic import write_safetensors

WEIGHTS, CODEBOOK, PROMPT = (f"kg-edit-{kind}/1" for kind in ("patch", "codebook", "prompt"))

_CLASSES = {
    WEIGHTS: "kg_edit.patches.weight_patch:WeightPatch",
    CODEBOOK: "kg_edit.patches.codebook_patch:CodebookPatch",
    PROMPT: "kg_edit.patches.prompt_patch:PromptPatch",
}

_METADATA = "kg_edit"


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchFile:
    """A patch's file as it was read: its path, its format's name, the provenance, and the tensors by name."""

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
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise PatchError(f"the change of {name} is not finite; nothing was written")
    said = json.dumps({"format": format, "provenance": provenance}, sort_keys=True)
    cleaned = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return write_safetensors(Path(path), cleaned, {_METADATA: said})  # one key: several come in any order


def read_patch(path: str | Path) -> PatchFile:
    """Read what `write_patch` wrote.

    Raises:
        PatchError: the file is missing, is no patch, or does not say where it came from.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise PatchError(f"can't read the patch {path}: there is no such file; check the path") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise PatchError(f"can't read the patch {path}: {error}; is it a patch.safetensors, and complete?") from error
    found = said.get("format") if isinstance(said, dict) else said
    if found not in _CLASSES:
        raise PatchError(f"{path} is no patch: expected one of the formats {', '.join(_CLASSES)}, found {found!r}")
    provenance = said.get("provenance")
    if not isinstance(provenance, dict) or not isinstance(provenance.get("model", {}), dict):
        raise PatchError(f"the patch {path} does not say where it came from; make it anew")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise PatchError(f"the patch {path} has values of {name} that are not finite; make it anew")
    return PatchFile(path=str(path), format=found, provenance=provenance, tensors=tensors)


def patch_class(file: PatchFile) -> Any:
    """The class of the patch in a file, by its format; its ``from_file`` makes the patch."""
    module, _, name = _CLASSES[file.format].partition(":")
    return getattr(import_module(module), name)
