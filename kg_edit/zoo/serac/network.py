"""What SERAC trains: a scope classifier (`serac.scope`) and low-rank changes of the model (`serac.counterfactual`).

Here are their parameters before training, the settings of the training, and the manifest of the file that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import nn

from kg_edit.zoo.mend.gradients import Shape
from kg_edit.zoo.serac.counterfactual import Pair
from kg_edit.zoo.serac.scope import Scope
from kg_edit.zoo.trained import training
from kg_edit.zoo.trained.files import NetworkFormat, NetworkManifest

FORMAT = NetworkFormat(key="kg_edit_serac", thing="SERAC network", command="kg-edit serac train")
# With the initial scale and offset, a head's probability exceeds 1/2 if the mean cosine is above 0.6.
_SCALE = 20.0
_OFFSET = -12.0
_SPREAD = 0.02  # deviation of the heads' initial weights; equal heads would stay equal in training


class SeracNetwork(nn.Module):
    """The trainable parameters of both parts.

    Args:
        shapes: (out, in) of each changed weight, by name.
        width: d, the model's width.
        size: of the classifier's vectors.
        heads: of the classifier.
        rank: r, of the changes.
        seed: of the initial parameters.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], *, width: int, size: int, heads: int, rank: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.shapes = dict(sorted(shapes.items()))  # in the order of a manifest
        draw = torch.Generator().manual_seed(seed)
        self.project = nn.Parameter(torch.randn(size, width, generator=draw) * width**-0.5)
        self.weigh = nn.Parameter(torch.randn(heads, width, generator=draw) * _SPREAD)
        self.scale = nn.Parameter(torch.full((heads,), _SCALE))
        self.offset = nn.Parameter(torch.full((heads,), _OFFSET))
        self.left = nn.ParameterList()  # at 0, so that before the training the model is unchanged
        self.right = nn.ParameterList()
        for rows, columns in self.shapes.values():
            self.left.append(nn.Parameter(torch.zeros(rows, rank)))
            self.right.append(nn.Parameter(torch.randn(rank, columns, generator=draw) * columns**-0.5))

    @property
    def scope(self) -> Scope:
        """The scope classifier with these parameters."""
        return Scope(project=self.project, weigh=self.weigh, scale=self.scale, offset=self.offset)

    @property
    def changes(self) -> dict[str, Pair]:
        """The factors (left [out, r], right [r, in]) of each weight's change, with these parameters."""
        return {name: (self.left[n], self.right[n]) for n, name in enumerate(self.shapes)}


class SeracTraining(training.TrainingConfig):
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
    texts: PositiveInt = Field(
        32, description="texts sampled from the model: examples outside every scope, and texts before prompts"
    )
    text_tokens: int = Field(12, ge=2, description="length of these texts, in tokens")


class Validation(training.Validation):
    """The results on the held-out edits, after ``step`` steps.

    Attributes:
        scope: the classifier's cross-entropy.
        edit: -log p of the new target by the counterfactual model.
        inside: share of paraphrases that are classified as inside their edit's scope.
        outside: share of the edits' outside texts that are classified as outside.
    """

    scope: float
    edit: float
    inside: float
    outside: float


class SeracManifest(NetworkManifest):
    """The metadata of a SERAC network: its model, and how it was trained."""

    width: int
    layer: NonNegativeInt
    shapes: dict[str, Shape]
    training: SeracTraining
    validations: tuple[Validation, ...] = ()

    def build_network(self) -> SeracNetwork:
        """Return the network before training."""
        config = self.training
        return SeracNetwork(
            self.shapes, width=self.width, size=config.size, heads=config.heads, rank=config.rank, seed=config.seed
        )


def default_layer(blocks: int) -> int:
    """Return the block (0-based) whose hidden states are compared by default, at 0.4 of the depth."""
    return round(0.4 * blocks)
