"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262) and R-ROME (Gupta et al., EMNLP Findings 2024, arXiv 2403.07175).

ROME optimises the change m* - m [d] itself (`FreeDelta`); everything else is in `RankOneMethod`. R-ROME uses the mean
key k* also in the residual and in the denominator of the update (`rank_one_update`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.free_delta import MOMENTUM, OPTIMISER, STOP_NLL, FreeDelta, Optimiser, expected_steps
from kg_edit.locate_then_edit.optimise import DeltaParameters
from kg_edit.locate_then_edit.rank_one import KeyVariant
from kg_edit.methods.rank_one.base import RankOneConfig, RankOneMethod
from kg_edit.methods.workload import Workload


class RomeConfig(RankOneConfig):
    """ROME's settings. The preset ``paper`` has the settings of the published code, except the layer."""

    fast: ClassVar[dict[str, Any]] = {**RankOneConfig.fast, **MOMENTUM, "stop_nll": STOP_NLL}

    steps: PositiveInt = Field(12, description="maximum number of evaluations of the objective")
    learning_rate: float = Field(1.0, gt=0, description="learning rate of the optimiser")
    optimiser: Optimiser = Field("adam", exclude_if=lambda name: name == "adam", description=OPTIMISER)
    weight_decay: float = Field(0.5, ge=0, description="weight of |m* - m| / |m|^2 in the loss")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": RankOneConfig.default,
        "fast": fast,
        "paper": RankOneConfig.published,
    }

    def workload(self, *, edits: int) -> Workload:
        """The workload of a rank-one method, with the evaluations that its optimiser needs."""
        steps = expected_steps(self.steps, self.optimiser, stop_nll=self.stop_nll)
        return replace(super().workload(edits=edits), steps=steps)


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

    With this key a single edit damages less and succeeds less often, so the larger clamp is affordable. In a sequence
    of hundreds of edits it is not (docs/many_edits.md).
    """

    key: KeyVariant = Field(
        "r-rome", description="key in the residual: of the bare prompt (rome), or the mean over the contexts (r-rome)"
    )
    clamp_norm_factor: float = Field(4.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": RankOneConfig.default,
        "fast": RomeConfig.fast,
        "paper": RankOneConfig.published,
    }


class RRome(Rome):
    """ROME with the mean key throughout the update, so that a sequence of edits does not break the model."""

    name = "r-rome"
    paper = "Gupta et al., EMNLP Findings 2024, arXiv 2403.07175"
    about = "ROME with one key throughout: stable in a sequence of edits"
    config_class = RRomeConfig
