"""GLAME (Zhang et al., EMNLP 2024, arXiv 2402.13593): a relational GNN over the edit's subgraph makes the value."""

from __future__ import annotations

from typing import Any, ClassVar

from kg_edit.edits.edit import Edit
from kg_edit.forward.descent_model import FAST
from kg_edit.graphs.encoding import check_graph
from kg_edit.methods.glame.glame import GraphConfig, GraphValues
from kg_edit.methods.rank_one.base import RankOneConfig, RankOneMethod
from kg_edit.value.objective import Request


class GlameConfig(GraphConfig, RankOneConfig):
    """GLAME's settings; ``default`` starts from the unedited model.

    ``paper`` is the setting of the paper with ROME's 20 steps and contexts: the public code has 25 to 50 steps by data
    set (see the presets of the models).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "fast": FAST,
        "paper": {
            **RankOneConfig.published,
            "aggregation": "sum",
            "start_token": False,
            "final_activation": True,
            "normalise": False,
            "gate": False,
        },
    }


class Glame(GraphValues, RankOneMethod):
    """m* = m + z_s^n (Eq. 6), where z_s^n is the subject's vector after n layers of the R-GNN."""

    name = "glame"
    paper = "Zhang et al., EMNLP 2024, arXiv 2402.13593"
    about = "rank-one editing through a knowledge graph: what follows from the fact moves too"
    config_class = GlameConfig
    config: GlameConfig

    def request(self, edit: Edit) -> Request:
        """As every method's; an edit whose subgraph can't be used fails here, before any work."""
        check_graph(self.subgraph(edit))
        return super().request(edit)
