"""A trained MEND editor on disk: settings of its training, and one safetensors file with the manifest inside.

Files are read without pickle; the same tensors and manifest give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kg_edit.errors import ModelError, PatchMismatchError
from kg_edit.methods.base import MethodConfig
from kg_edit.methods.mend.gradients import Shape
from kg_edit.methods.mend.network import MendNetwork
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_safetensors

NETWORK = "network.safetensors"
_KEY = "kg_edit_mend"


class MendTraining(MethodConfig):
    """Settings of the training; ``paper`` has the published ones, which mean hours on an accelerator.

    Its learning rate is the published 1e-6 times about 100, as V is so much smaller here (`LowRankLayer`).
    """

    blocks: PositiveInt = Field(3, description="the MLPs' matrices of so many last blocks are edited")
    weights: tuple[str, ...] = Field((), description="names of the weights to edit instead")
    rank: PositiveInt = Field(256, description="of the network's matrices; published: 1920")
    steps: PositiveInt = Field(300, description="of Adam at most")
    batch: PositiveInt = Field(8, description="edits a step, each made alone")
    learning_rate: float = Field(3e-4, gt=0, description="of the network")
    rate_learning_rate: float = Field(0.03, gt=0, description="of the logarithms of the weights' rates")
    edit_lr: float = Field(3e-4, gt=0, description="every weight's rate at the start")
    edit_weight: float = Field(0.1, ge=0, description="c_edit: weight of -log p(new target) after the edit")
    locality_weight: float = Field(1.0, ge=0, description="c_loc: weight of KL(unedited || edited) elsewhere")
    clip: float = Field(100.0, gt=0, description="the gradient's norm is at most this")
    normalise_on: int = Field(128, ge=2, description="edits from which mean and deviation of the factors are taken")
    validation: PositiveInt = Field(32, description="edits held out, on which the best network is chosen")
    validate_every: PositiveInt = Field(25, description="steps between two validations")
    patience: PositiveInt = Field(6, description="validations without a better one before training ends")
    texts: PositiveInt = Field(32, description="texts by the model itself, for edits without neighbours")
    text_tokens: int = Field(12, ge=2, description="length of these")
    seed: int = Field(0, description="of the network, the order of edits, and the texts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {
            "rank": 1920,
            "edit_lr": 1e-4,
            "learning_rate": 1e-4,
            "steps": 100_000,
            "batch": 10,
            "validate_every": 5000,
            "patience": 6,
        },
    }


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
