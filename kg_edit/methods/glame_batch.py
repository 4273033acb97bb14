"""GLAME for batches: the values that the R-GNN makes, spread over several layers and written together as in MEMIT."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.forward.descent_model import FAST
from kg_edit.graphs.encoding import check_graph
from kg_edit.methods.glame.glame import GraphConfig, GraphValues
from kg_edit.methods.memit.memit import Memit, MemitConfig
from kg_edit.methods.memit.values import Fact


class GlameBatchConfig(GraphConfig, MemitConfig):
    """GLAME's settings for the R-GNN, MEMIT's for all else; as in GLAME, AdamW's decay is the only penalty."""

    clamp_norm_factor: float = Field(0.75, gt=0, description="|z - h| is at most so many times |h|")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "fast": FAST}


class GlameBatch(GraphValues, Memit):
    """z = h + z_s^n for every edit of a batch, h being the last edited block's output."""

    name = "glame-batch"
    paper = "Zhang et al., EMNLP 2024, arXiv 2402.13593, with MEMIT's spread"
    about = "GLAME for many edits at once: graph-made values, spread over several layers"
    config_class = GlameBatchConfig
    config: GlameBatchConfig

    @property
    def norm_penalty(self) -> float:
        """None."""
        return 0.0

    def facts(self, edit: Edit) -> tuple[Fact, ...]:
        """As every method's; an edit whose subgraph can't be used fails here, before any work."""
        check_graph(self.subgraph(edit))
        return super().facts(edit)
