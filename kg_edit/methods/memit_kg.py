"""MEMIT-KG (Zhang et al., EMNLP 2024): MEMIT for the edit and each fact that the graph has around it, in one batch."""

from __future__ import annotations

from typing import Any, ClassVar

from kg_edit.edits.edit import Edit
from kg_edit.methods.glame.kg_baselines import GraphRequestConfig, GraphRequestMethod
from kg_edit.methods.memit.memit import Memit, MemitConfig


class MemitKgConfig(MemitConfig, GraphRequestConfig):
    """MEMIT's settings, and how many facts of which kind are edited in.

    ``paper`` has MEMIT's published settings, and all of the m facts read on from the edit's prompt.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {**MemitConfig.presets["paper"], "statements": 0, "composed": 0, "chained": 20},
    }

    @classmethod
    def _published(cls, name: str, method: str | None) -> dict[str, Any]:
        return super()._published(name, "memit")


class MemitKg(GraphRequestMethod, Memit):
    """The edit itself and the facts around it, as one batch; many edits of a call are one batch with all their facts.

    A record's ``requests`` lists the records of the facts.
    """

    name = "memit-kg"
    paper = "Zhang et al., EMNLP 2024, arXiv 2402.13593 (baseline)"
    about = "MEMIT, and the facts of the edit's subgraph as further requests in the same batch"
    config_class = MemitKgConfig
    config: MemitKgConfig

    def requests_of(self, edit: Edit) -> tuple[Edit, ...]:
        """The edit, then the facts."""
        return (edit, *self.requests.edits(edit))
