"""The side of Defer: a gate chooses at each token between a layer and a new layer (after Mitchell et al. 2022).

It is the baseline "Defer" in GRACE's tables (Hartvigsen et al., NeurIPS 2023). With the module's input x and its own
output W x + c at a token:

    g(x) = sigmoid(w . x + b),    y = U x + u  if g(x) >= threshold, else W x + c

During training both outputs are mixed: y = g (U x + u) + (1 - g)(W x + c). With ``copied``, the new layer starts as a
copy of the old one, so that U x + u = W x + c + (what was learned). Otherwise it starts from random numbers, as in the
published program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.methods.adapters.summed import SideSettings, SummedSide, linear_start
from kg_edit.storage.seeds import Seed


class DeferralSettings(SideSettings):
    """Settings: when the gate is open, and how the gate and the new layer start."""

    threshold: float = Field(0.5, gt=0, lt=1, description="g from which the new layer answers")
    copied: bool = Field(True, description="whether the new layer starts as the old one")
    shut: float = Field(0.0, description="the gate's bias at the start; below 0 it starts shut")
    seed: Seed = Field(0, description="random seed of the initial weights")


@dataclass(frozen=True, eq=False, kw_only=True)
class DeferringGate(SummedSide):
    """The gate w [1, in], b [1, 1], and the new layer U [out, in], u [out, 1]."""

    kind: ClassVar[str] = "defer"
    settings_class = DeferralSettings
    settings: DeferralSettings

    @property
    def words(self) -> str:
        """A short description of the side."""
        return f"a gate at {self.settings.threshold:g} and a second layer"

    def start(self) -> dict[str, Tensor]:
        """The initial parameters: random like a linear layer's, from the seed; zero if the layer is copied."""
        draw, (rows, columns) = torch.Generator().manual_seed(self.settings.seed), self.size
        gate = linear_start(1, columns, draw)
        bias = torch.full((1, 1), self.settings.shut)
        if self.settings.copied:
            return {"gate": torch.zeros_like(gate), "bias": bias} | {
                "layer": torch.zeros(rows, columns),
                "offset": torch.zeros(rows, 1),
            }
        layer = linear_start(rows, columns, draw)
        offset = torch.empty(rows, 1).uniform_(-(columns**-0.5), columns**-0.5, generator=draw)
        return {"gate": gate, "bias": bias, "layer": layer, "offset": offset}

    def openness(self, own: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """w . x + b for inputs [tokens, in]: [tokens, 1]."""
        return inputs @ own["gate"].T + own["bias"]

    def answer(self, own: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False) -> Tensor:
        """The new layer's output where the gate is open, else ``output``; in training the mixture of both."""
        gate = torch.sigmoid(self.openness(own, inputs))
        new = inputs @ own["layer"].T + own["offset"][:, 0]
        if self.settings.copied:
            new = output + new
        if training:
            return gate * new + (1 - gate) * output
        return torch.where(gate >= self.settings.threshold, new, output)
