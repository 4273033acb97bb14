"""A trained editor on disk: safetensors with its manifest inside, read without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kg_edit.errors import ModelError, PatchMismatchError
from kg_edit.mend.settings import MendTraining
from kg_edit.mend.weights import Shape
from kg_edit.methods.mend.network import MendNetwork
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.tensors import write_safetensors

NETWORK = "network.safetensors"
_KEY = "kg_edit_mend"


class Validation(BaseModel):
    """The mean losses on the edits held out, after so many steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    edit: float
    locality: float
    total: float


class Manifest(BaseModel):
    """Whose editor it is and how it was trained.

    ``edits`` is the digest of those given, ``examples`` the number that it learned from, ``steps`` after how many steps
    it was at its best.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "kg-edit-mend/1"
    model: str
    model_name: str
    shapes: dict[str, Shape]
    training: MendTraining
    edits: str = ""
    examples: int = 0
    steps: int = 0
    validations: tuple[Validation, ...] = ()

    def network(self) -> MendNetwork:
        """The network as it is before training."""
        training = self.training
        return MendNetwork(self.shapes, rank=training.rank, edit_lr=training.edit_lr, seed=training.seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class Editor:
    """A network and what is known of it; ``digest`` is its file's SHA-256."""

    network: MendNetwork
    manifest: Manifest
    digest: str

    @classmethod
    def load(cls, folder: Path, model: LanguageModel) -> Self:
        """The editor that `kg-edit mend train` wrote to ``folder``, on the device of ``model``.

        Raises:
            ModelError: there is none, or its file is damaged.
            PatchMismatchError: it was trained for another model.
        """
        manifest = read_manifest(folder / NETWORK)
        if manifest.model != model.fingerprint:
            raise PatchMismatchError(
                f"the editor in {folder} was trained for {manifest.model_name!r} (fingerprint {manifest.model}), the "
                f"model at hand is {model.name!r} ({model.fingerprint}); train one for it: kg-edit mend train"
            )
        network = manifest.network()
        load_into(network, read_tensors(folder / NETWORK), folder / NETWORK)
        digest = hashlib.sha256((folder / NETWORK).read_bytes()).hexdigest()
        return cls(network=network.to(model.device).requires_grad_(False), manifest=manifest, digest=digest)


def write_network(path: Path, tensors: Mapping[str, Tensor], manifest: BaseModel) -> Path:
    """Write tensors and a manifest as one file, atomically; the same ones give the same bytes.

    Raises:
        OutputError: the file can't be written.
    """
    said = json.dumps(manifest.model_dump(mode="json"), sort_keys=True)
    cleaned = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return write_safetensors(path, cleaned, {_KEY: said})


def read_manifest(path: Path) -> Manifest:
    """What a file of `write_network` says of itself.

    Raises:
        ModelError: there is no such file, or it is damaged.
    """
    try:
        return Manifest.model_validate_json(read_said(path))
    except ValidationError as error:
        raise damaged(path, error) from error


def read_said(path: Path) -> str:
    """The manifest's text.

    Raises:
        ModelError: as `read_manifest`.
    """
    if not path.is_file():
        raise ModelError(f"there is no trained editor: {path} is missing; train one with kg-edit mend train")
    try:
        with safe_open(path, framework="pt") as file:
            return str(file.metadata()[_KEY])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file.

    Raises:
        ModelError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error


def load_into(network: MendNetwork, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill a network with the tensors of a file.

    Raises:
        ModelError: they don't fit.
    """
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise damaged(path, error) from error


def damaged(path: Path, why: Any) -> ModelError:
    """The error for a file that can't be used."""
    return ModelError(f"{path} is damaged ({why}); delete it, and train the editor again: kg-edit mend train")
