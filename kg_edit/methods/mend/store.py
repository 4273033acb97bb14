"""The file of a trained MEND editor: the settings of its training, and its manifest (`trained.files`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from kg_edit.methods.config import MethodConfig
from kg_edit.methods.mend.gradients import Shape
from kg_edit.methods.mend.network import MendNetwork
from kg_edit.methods.trained import training
from kg_edit.methods.trained.files import NETWORK, NetworkFormat, NetworkManifest, Trained
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.seeds import Seed

__all__ = ["FORMAT", "NETWORK", "Manifest", "MendTraining", "Validation", "load_editor", "read_manifest"]

FORMAT = NetworkFormat(key="kg_edit_mend", thing="editor", command="kg-edit mend train")


class MendTraining(MethodConfig):
    """Settings of the training. The preset ``paper`` has the published ones, which need hours on an accelerator.

    Its learning rate is about 100 times the published 1e-6, because V is so much smaller here (`LowRankLayer`).
    The preset ``propmend`` learns from questions about what follows from an edit (PropMEND, arXiv 2506.08920).
    The preset ``smollm2-135m`` trains a small model until it stops improving: 10,000 steps at most, some two hours.
    """

    blocks: PositiveInt = Field(3, description="number of last blocks whose MLPs are edited")
    weights: tuple[str, ...] = Field(
        (), description="names of the weights to edit, instead of those of the last blocks"
    )
    rank: PositiveInt = Field(256, description="rank of the network's matrices; published: 1920")
    steps: PositiveInt = Field(300, description="maximum number of steps of Adam")
    batch: PositiveInt = Field(8, description="edits in a step; each is made alone")
    learning_rate: float = Field(3e-4, gt=0, description="learning rate of the network")
    rate_learning_rate: float = Field(0.03, gt=0, description="learning rate of the logarithm of each weight's edit_lr")
    edit_lr: float = Field(3e-4, gt=0, description="initial learning rate of every edited weight")
    edit_weight: float = Field(0.1, ge=0, description="c_edit: weight of -log p(new target) after the edit")
    locality_weight: float = Field(1.0, ge=0, description="c_loc: weight of KL(unedited || edited) on other prompts")
    clip: float = Field(100.0, gt=0, description="maximum norm of the gradient")
    normalise_on: int = Field(
        128, ge=2, description="number of edits from which mean and deviation of the factors are measured"
    )
    validation: PositiveInt = Field(
        32, description="number of held-out edits for validation, which chooses the best network"
    )
    validate_every: PositiveInt = Field(25, description="steps between two validations")
    patience: PositiveInt = Field(6, description="training stops after this many validations without a better one")
    gradient_of: Literal["target", "text"] = Field(
        "target",
        description="the edit's gradient: of -log p of the target, or of the whole statement (text)",
    )
    questions: int = Field(0, ge=0, description="questions per edit in a step about facts that follow from the edit")
    texts: PositiveInt = Field(32, description="texts sampled from the model, for edits without neighbours")
    text_tokens: int = Field(12, ge=2, description="length of these texts, in tokens")
    seed: Seed = Field(0, description="random seed of the network, the order of the edits, and the texts")

    @property
    def at_once(self) -> dict[str, int]:
        """The settings that say how many training edits are used at once; there must be as many as the largest."""
        return {"batch": self.batch, "normalise_on": self.normalise_on}

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
        "propmend": {"gradient_of": "text", "questions": 3},
        "smollm2-135m": {"steps": 10_000, "validate_every": 100, "patience": 20},
    }


class Validation(training.Validation):
    """The mean losses on the held-out edits, after ``step`` steps."""

    edit: float
    locality: float


class Manifest(NetworkManifest):
    """The metadata of an editor: its model, and how it was trained.

    ``edits`` is the digest of the training edits, ``examples`` the number of edits it learned from, ``steps`` the
    number of steps after which it was best.
    """

    format: str = "kg-edit-mend/1"
    shapes: dict[str, Shape]
    training: MendTraining
    validations: tuple[Validation, ...] = ()

    def network(self) -> MendNetwork:
        """The untrained network."""
        training = self.training
        return MendNetwork(self.shapes, rank=training.rank, edit_lr=training.edit_lr, seed=training.seed)


def load_editor(folder: Path, model: LanguageModel) -> Trained[MendNetwork, Manifest]:
    """Load the network that `kg-edit mend train` wrote to ``folder``, on the device of ``model``.

    Raises:
        ModelError: the folder has no network, or its file is damaged.
        PatchMismatchError: the network was trained for another model.
    """
    return FORMAT.trained(folder, model, Manifest, Manifest.network)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an editor's file.

    Raises:
        ModelError: the file does not exist, or it is damaged.
    """
    return FORMAT.manifest(path, Manifest)
