"""Memory: a memory network replaces one layer's output; a baseline of GRACE (Hartvigsen et al., NeurIPS 2023).

With the down-projection's input x [d_ff] at a token, n slots with keys K [n, d_ff], biases b [n] and values V [n, d]:

    y = softmax(K x + b)^T V

There is no radius: at every token of every text, the memory replaces the layer's own output. Adam trains the slots on
each edit in turn. The published program looks up only the prompt's last token and uses the result for all tokens. Here
each token is looked up, so the patch need not know where a prompt ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.base import AdapterConfig
from kg_edit.zoo.adapters.summed import AdapterSettings, SummedAdapter, SummedMethod, linear_init
from kg_edit.zoo.entries import method_entry


class SlotSettings(AdapterSettings):
    """The size of the memory, and the seed of its initial parameters."""

    slots: PositiveInt = Field(100, description="number of slots; each has a key and a value")
    seed: Seed = Field(0, description="random seed of the initial keys, biases and values")


class MemoryConfig(SlotSettings, AdapterConfig):
    """Settings of the memory network. The preset ``paper`` has those of the published program."""

    steps: PositiveInt = Field(
        100, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(0.1, gt=0, description="learning rate of Adam")
    frozen_values: bool = Field(False, description="train only the keys and biases; the values stay random")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"steps": 101, "stop_below": 0.0}}


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryNetwork(SummedAdapter):
    """Keys [n, d_ff], biases [n, 1] and values [n, d]."""

    method: ClassVar[str] = "memory"
    settings_class = SlotSettings
    settings: SlotSettings

    @property
    def summary(self) -> str:
        """The number of slots."""
        return f"a memory of {self.settings.slots} slots"

    def initial(self) -> dict[str, Tensor]:
        """Return keys and biases like a linear layer's, and values uniform in [0, 1), all from the seed."""
        draw = torch.Generator().manual_seed(self.settings.seed)
        d, d_ff = self.size
        slots = self.settings.slots
        # The bias, then the values, then the keys: the order of the draws is part of what a seed means.
        bias = torch.empty(slots, 1).uniform_(-(d_ff**-0.5), d_ff**-0.5, generator=draw)
        values = torch.rand(slots, d, generator=draw)
        keys = linear_init(slots, d_ff, draw)
        return {"keys": keys, "bias": bias, "values": values}

    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False
    ) -> Tensor:
        """Return the values weighted by each token's attention, [tokens, d]; ``output`` is not used."""
        attention = (inputs @ parameters["keys"].T + parameters["bias"][:, 0]).softmax(-1)  # [tokens, n]
        return attention @ parameters["values"]


class Memory(SummedMethod):
    """Attention over a fixed number of slots replaces the layer's output for every text.

    This baseline shows the effect of a codebook without radii.
    """

    entry = method_entry("memory")
    adapter_class = MemoryNetwork
    config_class = MemoryConfig
    config: MemoryConfig

    def learned(self) -> frozenset[str] | None:
        """Return the trained parameters: all (None), or only keys and biases if the values are frozen."""
        if self.config.frozen_values:
            return frozenset({"keys", "bias"})
        return None
