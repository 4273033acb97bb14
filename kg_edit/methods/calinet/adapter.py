"""The side of CaliNET: an extra feed-forward network beside one MLP.

Dong et al., Findings of EMNLP 2022, arXiv 2210.03329.

With h the MLP's input at a token, n units with keys K [n, d] and values V [n, d]:

    MLP'(h) = MLP(h) + gelu(h K^T) V
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.methods.adapters.summed import SideSettings, SummedSide, linear_start
from kg_edit.patches.adapter_hooks import Reads
from kg_edit.storage.seeds import Seed


class ExtraSettings(SideSettings):
    """Settings: the size of the network, and the seed of its initial parameters."""

    units: PositiveInt = Field(256, description="n, the network's inner size")
    seed: Seed = Field(0, description="random seed of the initial keys")


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtraNetwork(SummedSide):
    """Keys [n, d] and values [n, d]."""

    kind: ClassVar[str] = "calinet"
    settings_class = ExtraSettings
    reads: ClassVar[Reads] = "mlp"
    settings: ExtraSettings

    @property
    def words(self) -> str:
        """A short description of the side."""
        return f"an MLP of {self.settings.units} units"

    def start(self) -> dict[str, Tensor]:
        """The initial parameters: keys random like a linear layer's, from the seed; values 0, so the output is 0."""
        draw, (rows, _) = torch.Generator().manual_seed(self.settings.seed), self.size
        return {"keys": linear_start(self.settings.units, rows, draw), "values": torch.zeros(self.settings.units, rows)}

    def answer(self, own: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False) -> Tensor:
        """``output`` plus the output of the extra network, [tokens, d]."""
        return output + torch.nn.functional.gelu(inputs @ own["keys"].T) @ own["values"]
