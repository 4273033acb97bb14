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

    layer: int | None = Field(None, ge=0, description="block whose states the scope compares; default .4 of the depth")
    size: PositiveInt = Field(128, description="of the scope's vectors")
    heads: PositiveInt = Field(4, description="of the scope: each weighs the tokens of its own, and all must agree")
    scope_batch: int = Field(16, ge=2, description="edits a step whose scopes are told apart")
    scope_learning_rate: float = Field(3e-3, gt=0, description="of the scope's projection and weights")
    behind: float = Field(0.5, ge=0, le=1, description="share of prompts that stand behind a text of the model's own")
    blocks: PositiveInt = Field(8, description="the counterfactual model changes all matrices of so many last blocks")
    rank: PositiveInt = Field(8, description="of these changes")
    batch: PositiveInt = Field(4, description="rows a step that the counterfactual model answers")
    learning_rate: float = Field(1e-3, gt=0, description="of these changes; published: 1e-5, of all weights")
    steps: PositiveInt = Field(300, description="of Adam at most")
    clip: float = Field(100.0, gt=0, description="the gradient's norm is at most this")
    validation: PositiveInt = Field(32, description="edits held out, on which the best network is chosen")
    validate_every: PositiveInt = Field(25, description="steps between two validations")
    patience: PositiveInt = Field(6, description="validations without a better one before training ends")
    texts: PositiveInt = Field(32, description="texts by the model itself: out of every scope, and before prompts")
    text_tokens: int = Field(12, ge=2, description="length of these")
    seed: Seed = Field(0, description="of the network, the order of edits, and the texts")

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
