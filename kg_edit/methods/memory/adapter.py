"""The side of GRACE's baseline "Memory": a memory network replaces a layer's output (Hartvigsen et al., NeurIPS 2023).

With the module's input x at a token, n slots with keys K [n, d_ff], biases b [n] and values V [n, d]:

    y = softmax(K x + b)^T V

There is no radius: at every token of every text, the memory replaces the layer's own output. The published program
looks up only the prompt's last token and uses the result for all tokens. Here each token is looked up, so it need not
be known where a prompt ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.methods.adapters.summed import SideSettings, SummedSide, linear_start
from kg_edit.storage.seeds import Seed


class MemorySettings(SideSettings):
    """Settings: the size of the memory, and the seed of its initial parameters."""

    slots: PositiveInt = Field(100, description="number of keys and of values")
    seed: Seed = Field(0, description="random seed of the initial slots")


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryNetwork(SummedSide):
    """Keys [n, in], biases [n, 1] and values [n, out]."""

    kind: ClassVar[str] = "memory"
    settings_class = MemorySettings
    settings: MemorySettings

    @property
    def words(self) -> str:
        """A short description of the side."""
        return f"a memory of {self.settings.slots} slots"

    def start(self) -> dict[str, Tensor]:
        """The initial parameters, from the seed: keys and biases like a linear layer's, values uniform in [0, 1)."""
        draw, (rows, columns) = torch.Generator().manual_seed(self.settings.seed), self.size
        slots = self.settings.slots
        bias = torch.empty(slots, 1).uniform_(-(columns**-0.5), columns**-0.5, generator=draw)
        values = torch.rand(slots, rows, generator=draw)
        return {"keys": linear_start(slots, columns, draw), "bias": bias, "values": values}

    def answer(self, own: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False) -> Tensor:
        """The mean of the values, weighted by each token's attention, [tokens, out]; ``output`` is not used."""
        attention = (inputs @ own["keys"].T + own["bias"][:, 0]).softmax(-1)
        return attention @ own["values"]
