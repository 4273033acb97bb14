"""The file of a trained KE network: the settings of its training, and its manifest (`trained.files`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from kg_edit.methods.ke.network import KeNetwork
from kg_edit.methods.mend.gradients import Shape
from kg_edit.methods.mend.store import MendTraining, Validation
from kg_edit.methods.trained.files import NetworkFormat, NetworkManifest, Trained
from kg_edit.models.language_model import LanguageModel

_MEND_ALONE = ("rank", "rate_learning_rate", "edit_weight", "locality_weight", "normalise_on")
FORMAT = NetworkFormat(key="kg_edit_ke", thing="KE network", command="kg-edit ke train")


class KeTraining(MendTraining):
    """Settings of the training; examples, batches and validations are as in MEND.

    MEND's settings ``rank``, ``rate_learning_rate``, ``edit_weight``, ``locality_weight`` and ``normalise_on`` have no
    effect on the KE network, so other values than their defaults are refused. The preset ``paper`` has the published
    rate and sizes.
    """

    @model_validator(mode="after")
    def _no_setting_of_mend_alone(self) -> Self:
        for name in _MEND_ALONE:
            if getattr(self, name) != MendTraining.model_fields[name].default:
                raise ValueError(f"{name} is a setting of MEND that has no effect on KE; leave it out")
        return self

    @property
    def at_once(self) -> dict[str, int]:
        """As in MEND; KE does not normalise."""
        return {"batch": self.batch}

    edit_lr: float = Field(3e-3, gt=0, lt=1, description="initial sigmoid(eta), the learning rate of the gradient step")
    hidden: PositiveInt = Field(128, description="size of the LSTM in each direction")
    inner: PositiveInt = Field(128, description="size of the MLP after the LSTM; published: 1024")
    gradient_of: Literal["target"] = Field("target", description="always target: the gradient of -log p of the target")
    margin: float = Field(1e-3, ge=0, description="m: allowed KL(unedited || edited) on other prompts")
    multiplier_rate: float = Field(
        0.1, ge=0, description="learning rate of the Lagrange multiplier of the constraint KL <= margin"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"inner": 1024, "steps": 200_000, "validate_every": 5000},
    }


class KeManifest(NetworkManifest):
    """The metadata of a KE network: its model, and how it was trained."""

    format: str = "kg-edit-ke/1"
    width: int
    shapes: dict[str, Shape]
    training: KeTraining
    validations: tuple[Validation, ...] = ()

    def network(self) -> KeNetwork:
        """The untrained network."""
        said = self.training
        return KeNetwork(
            self.shapes, width=self.width, hidden=said.hidden, inner=said.inner, edit_lr=said.edit_lr, seed=said.seed
        )


def load_ke(folder: Path, model: LanguageModel) -> Trained[KeNetwork, KeManifest]:
    """Load the network that `kg-edit ke train` wrote to ``folder``, on the device of ``model``.

    Raises:
        ModelError: the folder has no network, or its file is damaged.
        PatchMismatchError: the network was trained for another model.
    """
    return FORMAT.trained(folder, model, KeManifest, KeManifest.network)


def embedding_width(model: LanguageModel) -> int:
    """The size of the model's input embeddings."""
    weight = model.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)  # noqa: S101 - true of every causal language model
    return weight.shape[1]
