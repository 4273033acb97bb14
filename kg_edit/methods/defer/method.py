"""Defer: a second layer behind a trained gate, GRACE's baseline (Hartvigsen et al., NeurIPS 2023).

Adam trains the gate and the layer on each edit in turn. The published program has no examples for which the gate should
stay shut. Here the inputs at tokens of texts that the model writes itself are such examples (``texts``; published: 0):

    L = -log P(target) + gate_weight (mean of -log(1 - g) on those inputs - mean of log g where targets are predicted)

`kg_edit.methods.defer.adapter` has the equation of the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from kg_edit.locate_then_edit.optimise import untouched
from kg_edit.methods.adapters.base import BesideConfig
from kg_edit.methods.adapters.own_text import own_text_inputs
from kg_edit.methods.adapters.summed import SummedSide
from kg_edit.methods.adapters.summed_method import SummedMethod
from kg_edit.methods.defer.adapter import DeferralSettings, DeferringGate
from kg_edit.storage.seeds import Seed


class DeferConfig(BesideConfig):
    """Settings of the gate and the layer. The preset ``paper`` has those of the published program."""

    steps: PositiveInt = Field(
        50, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    stop_below: float = Field(
        0.0, description="training stops when the target's loss is below this value; 0: train the gate for all steps"
    )
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam; published: 0.1")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="the new layer's output is used where the gate's value g is at least this"
    )
    start: Literal["layer", "random"] = Field(
        "layer", description="initial new layer: a copy of the old layer (layer), or random"
    )
    shut: float = Field(-2.0, description="initial bias of the gate; below 0 the gate starts closed")
    gate_weight: float = Field(
        1.0, ge=0, description="weight of the loss that opens the gate for the edit and closes it for other text"
    )
    texts: NonNegativeInt = Field(
        32, description="texts sampled from the model, for which the gate should stay closed; published: 0 (none)"
    )
    text_tokens: PositiveInt = Field(16, description="length of these texts, in tokens")
    seed: Seed = Field(0, description="random seed of the initial parameters and of the sampled texts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {
            "steps": 101,
            "learning_rate": 0.1,
            "start": "random",
            "shut": 0.0,
            "texts": 0,
        },
    }

    def idle(self) -> dict[str, str]:
        """The settings of the gate's own loss, if it has none: without texts, or with the weight 0."""
        if not self.texts:
            return dict.fromkeys(("gate_weight", "text_tokens"), "with texts=0 the gate has no loss of its own")
        if not self.gate_weight:
            return dict.fromkeys(("texts", "text_tokens"), "with gate_weight=0 the gate has no loss of its own")
        return {}


class Defer(SummedMethod):
    """A gate beside one layer decides at each token whether a second layer's output is used; each edit trains both."""

    name = "defer"
    paper = "Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031 (a baseline, after SERAC)"
    about = "a trained gate chooses at each token between one layer and a second one: a baseline of GRACE"
    side_kind = DeferringGate.kind
    side_class = DeferringGate
    config_class = DeferConfig
    config: DeferConfig

    def prepare(self) -> None:
        """Collect once the inputs for which the gate should stay shut."""
        if self.config.texts and self.config.gate_weight:
            with untouched(self.model):
                _ = self.elsewhere

    @cached_property
    def elsewhere(self) -> Tensor:
        """The module's inputs at tokens of the model's own texts, [tokens, d_ff]."""
        config = self.config
        return own_text_inputs(
            self.model, self.layer, reads="key", texts=config.texts, tokens=config.text_tokens, seed=config.seed
        )

    def side_settings(self) -> DeferralSettings:
        """The settings of the side: the threshold, and how the gate and the layer start."""
        config = self.config
        return DeferralSettings(
            threshold=config.threshold, copied=config.start == "layer", shut=config.shut, seed=config.seed
        )

    def penalty(self, side: SummedSide, own: Mapping[str, Tensor], here: Tensor) -> Tensor | None:
        """The gate's loss: it should be open where a target is predicted, and shut in other text."""
        if not (self.config.texts and self.config.gate_weight and isinstance(side, DeferringGate)):
            return None
        shut, opened = softplus(side.openness(own, self.elsewhere)), softplus(-side.openness(own, here))
        return self.config.gate_weight * (shut.mean() + opened.mean())
