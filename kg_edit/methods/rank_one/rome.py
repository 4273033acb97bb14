"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262): the value's change is itself what is optimised."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.forward.descent_model import FAST
from kg_edit.methods.rank_one.base import RankOneConfig, RankOneMethod
from kg_edit.value.optimise import Proposal


class RomeConfig(RankOneConfig):
    """ROME's settings; ``paper`` has the published code's, but for the layer."""

    steps: PositiveInt = Field(12, description="evaluations of the objective at most")
    learning_rate: float = Field(1.0, gt=0, description="of Adam")
    weight_decay: float = Field(0.5, ge=0, description="weight of |m* - m| / |m|^2 in the loss")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "fast": FAST, "paper": RankOneConfig.published}


class Rome(RankOneMethod):
    """One rank-one update an edit; GLAME without its graph module."""

    name = "rome"
    paper = "Meng et al., NeurIPS 2022, arXiv 2202.05262"
    about = "rank-one model editing: one fact, one layer, no graph"
    config_class = RomeConfig
    config: RomeConfig

    @property
    def norm_penalty(self) -> float:
        """ROME's own regulariser."""
        return self.config.weight_decay

    def proposal(self, edit: Edit, value: Tensor) -> tuple[Proposal, dict[str, Any]]:
        """The change itself, from 0."""
        return FreeChange(value, self.config), {}


class StepSettings(Protocol):
    """How far `FreeChange` goes in a step, and in all."""

    @property
    def learning_rate(self) -> float:
        """Adam's."""

    @property
    def clamp_norm_factor(self) -> float:
        """In norms of the value."""


class FreeChange:
    """Adam on the change itself, which is kept within ``clamp_norm_factor`` times |m|."""

    def __init__(self, value: Tensor, config: StepSettings) -> None:
        self._change = torch.zeros_like(value, requires_grad=True)
        self._limit = config.clamp_norm_factor * value.norm()
        self._optimizer = torch.optim.Adam([self._change], lr=config.learning_rate)

    def change(self) -> Tensor:
        """[d]."""
        return self._change

    @torch.no_grad()
    def learn(self) -> None:
        """A step of Adam, and back to the ball where it leads out."""
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._change.mul_((self._limit / self._change.norm().clamp(min=1e-12)).clamp(max=1.0))
