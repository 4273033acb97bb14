"""MALMEN's editor network: value differences of tokens, and the update that fits them all (MALMEN, section 4).

For each token t of a target, with the key k_t [in] and the gradient g_t [out] at a weight [out, in], MEND's network
gives k~_t and g~_t, and the output at this token is to change by

    d_t = -rate (k_t . k~_t) g~_t                                                                    [out]

The changes of all tokens of all edits are written at once, by ridge regression on the keys (MALMEN, Eq. 3):

    change of W = D^T K (K^T K + ridge I)^-1 = D^T (K K^T + ridge I)^-1 K,   D [tokens, out], K [tokens, in]

The rate and the ridge of each weight are learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from kg_edit.models.devices import exact
from kg_edit.patches.factors import Factors
from kg_edit.zoo.mend.gradients import Gradients, Shape, as_factors
from kg_edit.zoo.mend.network import MendManifest, MendNetwork, MendTraining
from kg_edit.zoo.trained.files import NetworkFormat

FORMAT = NetworkFormat(key="kg_edit_malmen", thing="editor", command="kg-edit malmen train")


class MalmenNetwork(MendNetwork):
    """MEND's network, whose output for each token is a value difference, and a ridge for each weight.

    Before `normalise_by` and training, k~ = k and g~ = g, so d = -edit_lr |k|^2 g: what a step of gradient descent with
    ``edit_lr`` changes at that token.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], *, rank: int, edit_lr: float, layers: int = 2, seed: int = 0
    ) -> None:
        super().__init__(shapes, rank=rank, edit_lr=edit_lr, layers=layers, seed=seed)
        self.log_ridges = nn.Parameter(torch.zeros(len(self.shapes)))  # the logarithm of the ridge, which starts at 1

    @property
    def rate_parameters(self) -> list[nn.Parameter]:
        """The logarithms of the rates and of the ridges."""
        return [self.log_rates, self.log_ridges]

    def ridge(self, name: str) -> Tensor:
        """Return the learned ridge of a weight, which is positive, in float64."""
        ridge: Tensor = exact(self.log_ridges[self._indices[name]]).exp()
        return ridge

    def compute_differences(self, name: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return the value differences [tokens, out] for keys [tokens, in] and gradients [tokens, out] of a weight."""
        better, direction = self(name, keys, gradients)
        product = (keys.to(better.device) * better).sum(-1, keepdim=True)  # k . k~ [tokens, 1]
        differences: Tensor = -self.compute_rate(name) * product * direction
        return differences

    def compute_changes(self, gradients: Gradients) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors (left [1, tokens, out], right [1, tokens, in]) of each weight's change by all edits.

        Args:
            gradients: by weight, keys [tokens, in] and gradients [tokens, out] of the target tokens of all edits.
        """
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (keys, gradient) in gradients.items():
            left = self.compute_differences(name, keys, gradient)
            changes[name] = (left[None], ridge_rows(keys.to(left.device), self.ridge(name))[None])
        return changes

    @torch.no_grad()
    def compute_factors(self, gradients: Gradients) -> dict[str, Factors]:
        """Return the change of each weight for a patch of all edits; its rank is the number of tokens."""
        return as_factors(self.compute_changes(gradients))


def ridge_rows(keys: Tensor, ridge: Tensor) -> Tensor:
    """Return (K K^T + ridge I)^-1 K [tokens, in] for keys K [tokens, in], solved in float64.

    Of its two forms, with tokens or inputs as unknowns, the one with the smaller matrix is solved.
    """
    k = exact(keys)
    if len(k) <= k.shape[1]:
        solved: Tensor = torch.linalg.solve(_with_ridge(k @ k.T, ridge), k)  # (K K^T + ridge I)^-1 K
    else:
        solved = torch.linalg.solve(_with_ridge(k.T @ k, ridge), k.T).T  # K (K^T K + ridge I)^-1
    return solved.to(keys)


def _with_ridge(gram: Tensor, ridge: Tensor) -> Tensor:
    return gram + ridge.to(gram.device) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


@dataclass(frozen=True, kw_only=True)
class UpdateSequence:
    """The updates that a step of the training makes one after the other, and what their loss is about.

    Attributes:
        length: the number of updates; each is made by a batch of edits.
        look_back: the number of batches in the loss of an update, its own one included.
        decay: factor of a batch's loss for each update made after its own.
        norm_weight: weight of the squared Frobenius norm of an update.
    """

    length: int = 1
    look_back: int = 1
    decay: float = 1.0
    norm_weight: float = 0.0


class MalmenTraining(MendTraining):
    """Settings of the training. The preset ``paper`` has the published ones, with the learning rate as in MEND's.

    Its batch and held-out edits need about a thousand edits. The published code edits the output matrices of the last
    six blocks' MLPs; ``weights`` can name them.
    """

    batch: PositiveInt = Field(32, description="edits in a step, made together; published: 512 to 8,192")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of the network")
    clip: float = Field(1.0, gt=0, description="maximum norm of the gradient")
    edit_lr: float = Field(3e-4, gt=0, description="initial rate of the value differences of every edited weight")
    edit_weight: float = Field(1.0, ge=0, description="c_edit: weight of -log p(new target) after the edits")
    network_layers: PositiveInt = Field(2, description="residual layers of the network")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "rank": 1920,
            "edit_lr": 1e-6,
            "learning_rate": 1e-3,
            "batch": 512,
            "validation": 512,
        },
    }

    @property
    def sequence(self) -> UpdateSequence:
        """One update of the unedited model."""
        return UpdateSequence()


class MalmenManifest(MendManifest):
    """The metadata of an editor: its model, and how it was trained."""

    training: MalmenTraining

    def build_network(self) -> MalmenNetwork:
        """Return the untrained network."""
        config = self.training
        return MalmenNetwork(
            self.shapes, rank=config.rank, edit_lr=config.edit_lr, layers=config.network_layers, seed=config.seed
        )
