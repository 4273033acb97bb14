"""CaliNET (Dong et al., Findings of EMNLP 2022, arXiv 2210.03329): a small MLP beside one layer, for many facts.

All facts of a call are trained together, on the mean of their losses. A later call continues from the result. The
published program trains on several statements of each fact, with Adafactor. Here the edit's own prompt is used, with
Adam.
`kg_edit.methods.calinet.adapter` has the equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.methods.adapters.base import BesideConfig
from kg_edit.methods.adapters.summed_method import SummedMethod
from kg_edit.methods.calinet.adapter import ExtraNetwork, ExtraSettings
from kg_edit.methods.workload import Workload
from kg_edit.patches.base import Patch
from kg_edit.storage.seeds import Seed


class CalinetConfig(BesideConfig):
    """Settings of the extra MLP."""

    steps: PositiveInt = Field(
        60, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(3e-3, gt=0, description="learning rate of Adam; published: 1e-3 with Adafactor")
    units: PositiveInt = Field(256, description="inner size of the extra MLP")
    seed: Seed = Field(0, description="random seed of the initial parameters")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def workload(self, *, edits: int) -> Workload:
        """One descent on the rows of the edits, for ``units`` units."""
        return Workload(steps=self.steps, rank=self.units)


class Calinet(SummedMethod):
    """An extra MLP beside that of one layer, trained on all facts of a call together."""

    name = "calinet"
    paper = "Dong et al., Findings of EMNLP 2022, arXiv 2210.03329"
    about = "a small MLP beside one layer's, trained on many facts together"
    joint = True
    trains = "adapters"
    side_kind = ExtraNetwork.kind
    side_class = ExtraNetwork
    config_class = CalinetConfig
    config: CalinetConfig

    def side_settings(self) -> ExtraSettings:
        """The settings of the side: the size and the seed."""
        return ExtraSettings(units=self.config.units, seed=self.config.seed)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train on all edits together.

        Raises:
            EditError: two of the edits have the same prompt and different targets.
        """
        refuse_clash(edits)
        return super().make(edits, before=before)
