"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262) and R-ROME (Gupta et al., EMNLP Findings 2024, arXiv 2403.07175).

ROME optimises the change m* - m [d] itself (`FreeDelta`); everything else is in `RankOneMethod`. R-ROME uses the mean
key k* also in the residual and in the denominator of the update (`rank_one_update`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.closed_form.rank_one import KeyVariant
from kg_edit.edits.edit import Edit
from kg_edit.methods.rank_one.base import RankOneConfig, RankOneMethod
from kg_edit.value.optimise import DeltaParameters


class RomeConfig(RankOneConfig):
    """ROME's settings. The preset ``paper`` has the settings of the published code, except the layer."""

    steps: PositiveInt = Field(12, description="maximum number of evaluations of the objective")
    learning_rate: float = Field(1.0, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(0.5, ge=0, description="weight of |m* - m| / |m|^2 in the loss")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": RankOneConfig.default,
        "fast": RankOneConfig.fast,
        "paper": RankOneConfig.published,
    }


class Rome(RankOneMethod):
    """One rank-one update per edit; GLAME without its graph module."""

    name = "rome"
    paper = "Meng et al., NeurIPS 2022, arXiv 2202.05262"
    about = "rank-one model editing: one fact, one layer, no graph"
    config_class = RomeConfig
    config: RomeConfig

    @property
    def norm_penalty(self) -> float:
        """Weight of ROME's regulariser |m* - m| / |m|^2."""
        return self.config.weight_decay

    def proposal(self, edit: Edit, value: Tensor) -> tuple[DeltaParameters, dict[str, Any]]:
        """The change m* - m itself as the parameter, starting at 0; no notes."""
        return FreeDelta(value, self.config), {}


class RRomeConfig(RomeConfig):
    """ROME's settings with the key of R-ROME and the published clamp of 4.

    With this key an edit damages less and succeeds less often, so the larger clamp is affordable.
    """

    key: KeyVariant = Field(
        "r-rome", description="key in the residual: of the bare prompt (rome), or the mean over the contexts (r-rome)"
    )
    clamp_norm_factor: float = Field(4.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": RankOneConfig.default,
        "fast": RankOneConfig.fast,
        "paper": RankOneConfig.published,
    }


class RRome(Rome):
    """ROME with the mean key throughout the update, so that a sequence of edits does not break the model."""

    name = "r-rome"
    paper = "Gupta et al., EMNLP Findings 2024, arXiv 2403.07175"
    about = "ROME with one key throughout: stable in a sequence of edits"
    config_class = RRomeConfig


class FreeDelta:
    """The change m* - m as a free parameter, trained by Adam.

    It starts at ``start``, or at 0. After each step its norm is clamped to ``clamp_norm_factor`` times |m|.
    """

    def __init__(self, value: Tensor, config: StepSettings, *, start: Tensor | None = None) -> None:
        self._change = (torch.zeros_like(value) if start is None else start.detach().clone()).requires_grad_()
        self._limit = config.clamp_norm_factor * value.norm()
        self._optimizer = torch.optim.Adam([self._change], lr=config.learning_rate)

    def change(self) -> Tensor:
        """The current change m* - m, [d]; a leaf tensor."""
        return self._change

    @torch.no_grad()
    def learn(self) -> None:
        """Take a step of Adam, then rescale the change if its norm exceeds the limit."""
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._change.mul_((self._limit / self._change.norm().clamp(min=1e-12)).clamp(max=1.0))


class StepSettings(Protocol):
    """The settings that `FreeDelta` reads: the learning rate and the limit of the norm."""

    @property
    def learning_rate(self) -> float:
        """Adam's learning rate, above 0."""

    @property
    def clamp_norm_factor(self) -> float:
        """The largest |m* - m|, as a multiple of |m|."""
