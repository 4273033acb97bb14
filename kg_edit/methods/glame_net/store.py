"""The file of a trained `glame-net` network: the settings of its training, and its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, PositiveInt

from kg_edit.methods.config import ContextLengths, LayerConfig
from kg_edit.methods.glame_net.network import ValueNetwork
from kg_edit.methods.trained import training
from kg_edit.methods.trained.files import NETWORK, NetworkFormat, NetworkManifest, Trained
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.seeds import Seed

FORMAT = NetworkFormat(key="kg_edit_glame_net", thing="network", command="kg-edit glame-net train")
_EARLY = 0.1  # depth at which GLAME reads labels, as a fraction of the blocks


class NetTraining(LayerConfig):
    """Settings of the training and of the network."""

    hidden: PositiveInt = Field(512, description="h: hidden size of the network")
    gradient: bool = Field(True, description="the network also reads the gradient of -log p(o*) in the bare prompt")
    statements: int = Field(12, ge=0, description="maximum number of statements of o* that the network reads")
    per_relation: PositiveInt = Field(2, description="maximum number of these statements with the same relation r'")
    clamp_norm_factor: float = Field(2.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|")
    kl_weight: float = Field(0.0625, ge=0, description="weight of L_a in Eq. 7")
    ripple_weight: float = Field(1.0, ge=0, description="weight of the questions in the loss, as in glame-plus")
    own: int = Field(
        0, ge=0, description="how often a visit (an edit in a training step) asks the edit itself as a question"
    )
    composed: int = Field(1, ge=0, description="number of composed facts that a visit asks")
    shown: int = Field(3, ge=0, description="number of facts about other things before a question")
    context_lengths: ContextLengths = Field(
        (), description="(tokens, count) of the sampled contexts; a visit uses one of them"
    )
    held_out: tuple[str, ...] = Field((), description="relations r' that are not trained, only measured in validation")
    steps: PositiveInt = Field(1000, description="maximum number of steps of AdamW")
    batch: PositiveInt = Field(16, description="edits in a step")
    kept: PositiveInt = Field(8, description="number of batches whose clean states are cached at a time")
    visits: PositiveInt = Field(
        2, description="number of steps for each cached batch before the next batches replace them"
    )
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    warm_up: PositiveInt = Field(
        30, description="steps in which the learning rate rises; after them it falls as a cosine"
    )
    clip: float = Field(1.0, gt=0, description="maximum norm of the gradient")
    targets_held_out: float = Field(0.1, gt=0, lt=1, description="fraction of all o* that are used for validation only")
    validation: PositiveInt = Field(
        64, description="maximum number of edits with held-out o* for validation, which chooses the best network"
    )
    validate_every: PositiveInt = Field(125, description="steps between two validations")
    patience: PositiveInt = Field(6, description="training stops after this many validations without a better one")
    seed: Seed = Field(0, description="random seed of the network, the contexts, and the order of the edits")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def reading_layers(self, blocks: int) -> tuple[int, ...]:
        """The blocks whose inputs are read for a label: the first, an early one, and the one after the edited block."""
        return tuple(sorted({0, round(_EARLY * blocks), min(self.layer_in(blocks) + 1, blocks - 1)}))


class Validation(training.Validation):
    """The mean losses on the held-out edits.

    ``greedy`` is the share of edits for which greedy decoding of the bare prompt gives o*. ``composed`` is -log p of
    the questions with learned relations, ``held_out`` that of the other questions; None if there are none.
    """

    nll: float
    greedy: float
    kl: float
    composed: float
    held_out: float | None


class Manifest(NetworkManifest):
    """The metadata of a network: its model, and how it was trained.

    ``targets`` is the number of different o* in the training.
    """

    format: str = "kg-edit-glame-net/1"
    width: int
    blocks: int
    training: NetTraining
    graph: dict[str, Any] = Field({})
    excluded: str = ""
    targets: int = 0
    validations: tuple[Validation, ...] = ()

    @property
    def layer(self) -> int:
        """The block that is edited."""
        return self.training.layer_in(self.blocks)

    @property
    def reading_layers(self) -> tuple[int, ...]:
        """The blocks whose inputs are read for a label."""
        return self.training.reading_layers(self.blocks)

    def network(self) -> ValueNetwork:
        """The untrained network."""
        return ValueNetwork(
            width=self.width,
            inputs=2 * len(self.reading_layers) * self.width,
            hidden=self.training.hidden,
            limit=self.training.clamp_norm_factor,
            gradient=self.training.gradient,
            seed=self.training.seed,
        )

    @classmethod
    def of(cls, model: LanguageModel, settings: NetTraining) -> Self:
        """The manifest fields that follow from the model and the settings."""
        return cls(
            model=model.fingerprint,
            model_name=model.name,
            width=model.width,
            blocks=len(model.blocks),
            training=settings,
        )


def load_network(folder: Path, model: LanguageModel) -> Trained[ValueNetwork, Manifest]:
    """Load the network that `kg-edit glame-net train` wrote to ``folder``, on the device of ``model``.

    Raises:
        ModelError: the folder has no network, or its file is damaged.
        PatchMismatchError: the network was trained for another model.
    """
    found = FORMAT.trained(folder, model, Manifest, Manifest.network)
    if (found.manifest.width, found.manifest.blocks) != (model.width, len(model.blocks)):
        raise FORMAT.damaged(folder / NETWORK, f"its width and number of blocks are not those of {model.name!r}")
    return found


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a network's file.

    Raises:
        ModelError: the file does not exist, or it is damaged.
    """
    return FORMAT.manifest(path, Manifest)
