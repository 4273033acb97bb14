"""Defer: a trained gate chooses at each token between a layer and a new layer; a baseline of GRACE.

Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031; after SERAC (Mitchell et al., ICML 2022). With the down-projection's
input x [d_ff] and its own output W x + c [d] at a token:

    g(x) = sigmoid(w . x + b),    y = U x + u  if g(x) >= threshold, else W x + c

During training both outputs are mixed: y = g (U x + u) + (1 - g)(W x + c). With ``start=layer`` the new layer starts as
a copy of the old one: U x + u = W x + c + (what was learned). In the published program it starts random.

Adam trains gate and layer on each edit in turn. The published program has no examples for which the gate should stay
closed. Here the inputs at tokens of texts that the model writes itself are such examples (``texts``; published: 0):

    L = -log P(target) + gate_weight (mean of -log(1 - g) on those inputs - mean of log g where targets are predicted)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from kg_edit.models.hooks import keep_untouched
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.base import AdapterConfig, own_text_inputs
from kg_edit.zoo.adapters.summed import AdapterSettings, SummedAdapter, SummedMethod, linear_init
from kg_edit.zoo.entries import method_entry


class GateSettings(AdapterSettings):
    """When the gate is open, and how the gate and the new layer start."""

    threshold: float = Field(
        0.5, gt=0, lt=1, description="the new layer's output is used where the gate's value g is at least this"
    )
    start: Literal["layer", "random"] = Field(
        "layer", description="initial new layer: a copy of the old layer (layer), or random"
    )
    shut: float = Field(-2.0, description="initial bias of the gate; below 0 the gate starts closed")
    seed: Seed = Field(0, description="random seed of the initial parameters and of the sampled texts")


class DeferConfig(GateSettings, AdapterConfig):
    """Settings of the gate and the layer. The preset ``paper`` has those of the published program."""

    steps: PositiveInt = Field(
        50, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    stop_below: float = Field(
        0.0, description="training stops when the target's loss is below this value; 0: train the gate for all steps"
    )
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam; published: 0.1")
    gate_weight: float = Field(
        1.0, ge=0, description="weight of the loss that opens the gate for the edit and closes it for other text"
    )
    texts: NonNegativeInt = Field(
        32, description="texts sampled from the model, for which the gate should stay closed; published: 0 (none)"
    )
    text_tokens: PositiveInt = Field(16, description="length of these texts, in tokens")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"steps": 101, "learning_rate": 0.1, "start": "random", "shut": 0.0, "texts": 0},
    }

    def idle(self) -> dict[str, str]:
        """Return the settings of the gate's own loss, if it has none: without texts, or with the weight 0."""
        if not self.texts:
            return dict.fromkeys(("gate_weight", "text_tokens"), "with texts=0 the gate has no loss of its own")
        if not self.gate_weight:
            return dict.fromkeys(("texts", "text_tokens"), "with gate_weight=0 the gate has no loss of its own")
        return {}


@dataclass(frozen=True, eq=False, kw_only=True)
class DeferringGate(SummedAdapter):
    """The gate w [1, d_ff], b [1, 1], and the new layer U [d, d_ff], u [d, 1]."""

    method: ClassVar[str] = "defer"
    settings_class = GateSettings
    settings: GateSettings

    @property
    def summary(self) -> str:
        """The gate's threshold."""
        return f"a gate at {self.settings.threshold:g} and a second layer"

    def initial(self) -> dict[str, Tensor]:
        """Return zeros for a copied layer; else random parameters like a linear layer's, from the seed."""
        draw = torch.Generator().manual_seed(self.settings.seed)
        d, d_ff = self.size
        bias = torch.full((1, 1), self.settings.shut)
        if self.settings.start == "layer":
            gate = torch.zeros(1, d_ff)
            layer = torch.zeros(d, d_ff)
            offset = torch.zeros(d, 1)
        else:
            gate = linear_init(1, d_ff, draw)
            layer = linear_init(d, d_ff, draw)
            offset = torch.empty(d, 1).uniform_(-(d_ff**-0.5), d_ff**-0.5, generator=draw)
        return {"gate": gate, "bias": bias, "layer": layer, "offset": offset}

    def logit(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return w . x + b, [tokens, 1], for inputs x [tokens, d_ff]."""
        return inputs @ parameters["gate"].T + parameters["bias"]

    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False
    ) -> Tensor:
        """Return the new layer's output where the gate is open, else ``output``; in training the mixture of both."""
        gate = torch.sigmoid(self.logit(parameters, inputs))  # [tokens, 1]
        new = inputs @ parameters["layer"].T + parameters["offset"][:, 0]  # [tokens, d]
        if self.settings.start == "layer":
            new = output + new
        if training:
            return gate * new + (1 - gate) * output
        return torch.where(gate >= self.settings.threshold, new, output)


class Defer(SummedMethod):
    """A gate decides at each token whether a second layer's output replaces a layer's; each edit trains both."""

    entry = method_entry("defer")
    adapter_class = DeferringGate
    config_class = DeferConfig
    config: DeferConfig

    def prepare(self) -> None:
        """Collect once the inputs for which the gate should stay closed."""
        if self.config.texts and self.config.gate_weight:
            with keep_untouched(self.model):
                _ = self.other_inputs  # the property collects them, and keeps them

    @cached_property
    def other_inputs(self) -> Tensor:
        """The module's inputs at tokens of the model's own texts, [tokens, d_ff]."""
        config = self.config
        return own_text_inputs(
            self.model, self.layer, reads="key", texts=config.texts, tokens=config.text_tokens, seed=config.seed
        )

    def penalty(self, adapter: SummedAdapter, parameters: Mapping[str, Tensor], target_inputs: Tensor) -> Tensor:
        """Return the gate's loss: it should be open where a target is predicted, and closed in other text."""
        if not (self.config.texts and self.config.gate_weight and isinstance(adapter, DeferringGate)):
            return target_inputs.new_zeros(())
        # -log(1 - sigmoid(z)) = softplus(z), -log sigmoid(z) = softplus(-z)
        closed = softplus(adapter.logit(parameters, self.other_inputs)).mean()
        opened = softplus(-adapter.logit(parameters, target_inputs)).mean()
        return self.config.gate_weight * (closed + opened)
