"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262): the value's change is itself what is optimised."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from kg_edit.descent import Descent, descend
from kg_edit.edits import Edit
from kg_edit.methods.rank_one_method import RankOneConfig, RankOneMethod
from kg_edit.objective import Objective


class RomeConfig(RankOneConfig):
    """ROME's settings; ``paper`` has the published code's clamp, and like it all else but the layer."""

    weight_decay: float = Field(0.5, ge=0, description="weight of |m* - m| / |m|^2 in the loss")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"clamp_norm_factor": 4.0}}


class Rome(RankOneMethod):
    """One rank-one update an edit; GLAME without its graph module."""

    name = "rome"
    about = "rank-one model editing: one fact, one layer, no graph"
    config_class = RomeConfig
    config: RomeConfig

    @property
    def norm_penalty(self) -> float:
        """ROME's own regulariser."""
        return self.config.weight_decay

    def find_change(self, edit: Edit, objective: Objective) -> tuple[Descent, dict[str, Any]]:
        """Adam on the change itself, which is kept within ``clamp_norm_factor`` times |m|."""
        change = torch.zeros_like(objective.value, requires_grad=True)
        limit = self.config.clamp_norm_factor * objective.value.norm(dim=-1, keepdim=True)

        @torch.no_grad()
        def clamp() -> None:
            change.mul_((limit / change.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))

        descent = descend(
            objective,
            lambda: change,
            torch.optim.Adam([change], lr=self.config.learning_rate),
            steps=self.config.steps,
            stop_below=self.config.stop_below,
            after_step=clamp,
        )
        return descent, {}
