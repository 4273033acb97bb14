"""The file of a trained SERAC network: the settings of its training, and its manifest (`trained.files`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.methods.config import MethodConfig
from kg_edit.methods.mend.gradients import Shape
from kg_edit.methods.serac.network import SeracNetwork
from kg_edit.methods.trained import training
from kg_edit.methods.trained.files import NetworkFormat, NetworkManifest, Trained
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.seeds import Seed

FORMAT = NetworkFormat(key="kg_edit_serac", thing="SERAC network", command="kg-edit serac train")


class SeracTraining(MethodConfig):
    """Settings of the training, for the scope classifier, for the counterfactual model, and for both."""

    layer: int | None = Field(
        None, ge=0, description="block whose states the classifier compares, 0-based; default 0.4 of the depth"
    )
    size: PositiveInt = Field(128, description="size of the classifier's vectors")
    heads: PositiveInt = Field(
        4, description="number of heads of the classifier; each weighs the tokens differently, and all must agree"
    )
    scope_batch: int = Field(16, ge=2, description="edits in a step of the classifier")
    scope_learning_rate: float = Field(
        3e-3, gt=0, description="learning rate of the classifier's projection and weights"
    )
    behind: float = Field(
        0.5, ge=0, le=1, description="fraction of prompts that come after a text sampled from the model"
    )
    blocks: PositiveInt = Field(
        8, description="number of last blocks in which the counterfactual model changes all matrices"
    )
    rank: PositiveInt = Field(8, description="rank of these changes")
    batch: PositiveInt = Field(4, description="questions for the counterfactual model in a step")
    learning_rate: float = Field(
        1e-3, gt=0, description="learning rate of these changes; published: 1e-5, for all weights"
    )
    steps: PositiveInt = Field(300, description="maximum number of steps of Adam")
    clip: float = Field(100.0, gt=0, description="maximum norm of the gradient")
    validation: PositiveInt = Field(
        32, description="number of held-out edits for validation, which chooses the best network"
    )
    validate_every: PositiveInt = Field(25, description="steps between two validations")
    patience: PositiveInt = Field(6, description="training stops after this many validations without a better one")
    texts: PositiveInt = Field(
        32, description="texts sampled from the model: examples outside every scope, and texts before prompts"
    )
    text_tokens: int = Field(12, ge=2, description="length of these texts, in tokens")
    seed: Seed = Field(0, description="random seed of the network, the order of the edits, and the texts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def layer_in(self, blocks: int) -> int:
        """The block (0-based) whose hidden states the classifier compares, in a model of ``blocks`` blocks."""
        return round(0.4 * blocks) if self.layer is None else self.layer


class Validation(training.Validation):
    """The results on the held-out edits, after ``step`` steps.

    ``scope`` is the classifier's cross-entropy, ``edit`` is -log p of the new target by the counterfactual model.
    ``inside`` is the share of paraphrases classified as inside their edit's scope, ``outside`` the share of the edits'
    outside texts classified as outside.
    """

    scope: float
    edit: float
    inside: float
    outside: float


class SeracManifest(NetworkManifest):
    """The metadata of a SERAC network: its model, and how it was trained."""

    format: str = "kg-edit-serac/1"
    width: int
    layer: NonNegativeInt
    shapes: dict[str, Shape]
    training: SeracTraining
    validations: tuple[Validation, ...] = ()

    def network(self) -> SeracNetwork:
        """The untrained network."""
        said = self.training
        return SeracNetwork(
            self.shapes, width=self.width, size=said.size, heads=said.heads, rank=said.rank, seed=said.seed
        )


def load_serac(folder: Path, model: LanguageModel) -> Trained[SeracNetwork, SeracManifest]:
    """Load the network that `kg-edit serac train` wrote to ``folder``, on the device of ``model``.

    Raises:
        ModelError: the folder has no network, or its file is damaged.
        PatchMismatchError: the network was trained for another model.
    """
    return FORMAT.trained(folder, model, SeracManifest, SeracManifest.network)
