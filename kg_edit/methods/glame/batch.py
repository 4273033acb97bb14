"""GLAME for many edits at once: each value comes from an R-GNN, and all are written over several layers, as in MEMIT.

    z = h + z_s^n  [d]

where h is the output of the last edited block at the subject's last token, and z_s^n the subject's vector of the R-GNN.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import check_graph
from kg_edit.methods.entries import method_entry
from kg_edit.methods.glame.method import GraphConfig, GraphValues
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.memit.records import Fact
from kg_edit.methods.rome.method import FAST


class GlameBatchConfig(GraphConfig, MemitConfig):
    """GLAME's settings for the R-GNN, MEMIT's for the rest. As in GLAME, AdamW's decay is the only penalty."""

    clamp_norm_factor: float = Field(0.75, gt=0, description="maximum of |z - h|, as a multiple of |h|")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"fast": FAST}

    @field_validator("optimiser")
    @classmethod
    def _refuse_other_optimisers(cls, name: str) -> str:
        """The R-GNN has AdamW; `FreeDelta` alone reads this setting."""
        if name != "adam":
            raise ValueError(f"the R-GNN is trained by AdamW; remove optimiser={name}")
        return name

    @field_validator("warm_start")
    @classmethod
    def _refuse_warm_start(cls, warm: bool) -> bool:
        """The R-GNNs of a batch are trained together, so none can start from another."""
        if warm:
            raise ValueError("the edits of a batch are made at once, so none can start from an earlier one; remove it")
        return warm


class GlameBatch(GraphValues, Memit):
    """z = h + z_s^n for every edit of a batch, where h is the output of the last edited block."""

    entry = method_entry("glame-batch")
    config_class = GlameBatchConfig
    config: GlameBatchConfig

    def penalty(self, change: Tensor, state: Tensor) -> Tensor:
        """Return 0: AdamW's decay is the only regulariser."""
        return change.new_zeros(len(change))

    def make_facts(self, edit: Edit) -> tuple[Fact, ...]:
        """Return the facts to write for the edit. An unusable subgraph raises here, before any expensive work."""
        check_graph(self.subgraph(edit))
        return super().make_facts(edit)
