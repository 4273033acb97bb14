"""CaliNET (Dong et al., Findings of EMNLP 2022, arXiv 2210.03329): a small MLP is added to one layer, for many facts.

With h [d] the MLP's input at a token, n units with keys K [n, d] and values V [n, d]:

    MLP'(h) = MLP(h) + gelu(h K^T) V

All facts of a call are trained together, on the mean of their losses. A later call continues from the result. The
published program trains on several statements of each fact, with Adafactor. Here the edit's own prompt is used, with
Adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.methods.config import Workload
from kg_edit.patches.adapter_hooks import Reads
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.base import AdapterConfig
from kg_edit.zoo.adapters.summed import AdapterSettings, SummedAdapter, SummedMethod, linear_init
from kg_edit.zoo.entries import method_entry


class UnitSettings(AdapterSettings):
    """The size of the extra MLP, and the seed of its initial parameters."""

    units: PositiveInt = Field(256, description="inner size of the extra MLP")
    seed: Seed = Field(0, description="random seed of the initial parameters")


class CalinetConfig(UnitSettings, AdapterConfig):
    """Settings of the extra MLP and its training."""

    steps: PositiveInt = Field(
        60, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(3e-3, gt=0, description="learning rate of Adam; published: 1e-3 with Adafactor")

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: ``units`` units, trained on all edits together."""
        return Workload(rows=edits, rank=self.units)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtraUnits(SummedAdapter):
    """Keys [n, d] and values [n, d]."""

    method: ClassVar[str] = "calinet"
    settings_class = UnitSettings
    reads: ClassVar[Reads] = "mlp"
    settings: UnitSettings

    @property
    def summary(self) -> str:
        """The number of units."""
        return f"an MLP of {self.settings.units} units"

    def initial(self) -> dict[str, Tensor]:
        """Return random keys, from the seed, and values 0: the output starts at 0."""
        draw = torch.Generator().manual_seed(self.settings.seed)
        width = self.size[0]
        units = self.settings.units
        return {"keys": linear_init(units, width, draw), "values": torch.zeros(units, width)}

    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False
    ) -> Tensor:
        """Return MLP(h) + gelu(h K^T) V for h [tokens, d]."""
        active = torch.nn.functional.gelu(inputs @ parameters["keys"].T)  # [tokens, n]
        return output + active @ parameters["values"]


class Calinet(SummedMethod):
    """An extra MLP, added to that of one layer and trained on all facts of a call together."""

    entry = method_entry("calinet")
    trains = "adapters"
    adapter_class = ExtraUnits
    config_class = CalinetConfig
    config: CalinetConfig
