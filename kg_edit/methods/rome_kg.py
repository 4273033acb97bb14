"""ROME-KG (Zhang et al., EMNLP 2024): ROME for the edit, then for each fact that the graph has around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from kg_edit.edits.edit import Edit
from kg_edit.methods.base import EditingMethod, naming
from kg_edit.methods.glame.kg_baselines import GraphRequestConfig, GraphRequestMethod
from kg_edit.methods.rank_one.base import RankOneConfig
from kg_edit.methods.rank_one.rome import Rome, RomeConfig
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch


class RomeKgConfig(RomeConfig, GraphRequestConfig):
    """ROME's settings, and how many facts of which kind are edited in.

    ``paper`` has ROME's published settings, and all of the m facts read on from the edit's prompt.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {**RankOneConfig.published, "statements": 0, "composed": 0, "chained": 20},
    }

    @classmethod
    def _published(cls, name: str, method: str | None) -> dict[str, Any]:
        return super()._published(name, "rome")


class RomeKg(GraphRequestMethod, Rome):
    """The edit itself, then the facts as further ROME edits, each on the model with the earlier ones.

    A record's ``requests`` lists the records of the facts.
    """

    name = "rome-kg"
    paper = "Zhang et al., EMNLP 2024, arXiv 2402.13593 (baseline)"
    about = "ROME, and the facts of the edit's subgraph as further ROME edits, one after the other"
    config_class = RomeKgConfig
    config: RomeKgConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """One ROME edit after the other; the first one is the edit itself."""
        (edit,) = edits
        facts, made = self.requests.edits(edit), self._alone(edit)
        for fact in facts:
            with made.worn(self.model):
                update = self._alone(fact)
            made = made + update
        first, *rest = made.edits
        provenance = {**made.provenance, "edits": [{**first, "requests": rest}]}
        assert isinstance(made, WeightPatch)  # noqa: S101 - a sum of such
        return WeightPatch(factors=made.factors, provenance=provenance)

    def _alone(self, edit: Edit) -> Patch:
        """ROME's patch of one edit for the model as it stands."""
        (patch,) = super().edit_each((edit,))
        if isinstance(patch, Exception):
            raise patch
        return patch

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """Each in turn: a fact is edited on the model with the earlier ones, so there is nothing to share."""
        return EditingMethod.edit_each(self, edits)

    def check(self, edits: Sequence[Edit]) -> None:
        """Also encode the prompts of the facts."""
        for edit in edits:
            with naming(edit):
                super().check((edit, *self.requests.edits(edit)))
