"""ROME-KG and MEMIT-KG, the baselines of GLAME's paper (Zhang et al., EMNLP 2024, arXiv 2402.13593).

The facts of the subgraph around an edit become further edit requests in natural language. `RomeKg` makes them one
after the other with ROME, `MemitKg` in one batch with MEMIT. `GraphRequestConfig` sets how many facts of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import networkx as nx
from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import GraphFact, Kind, graph_facts, overlaps
from kg_edit.graphs.source import SubgraphSource, check_graph
from kg_edit.methods.base import EditingMethod, GraphReader, annotate_errors
from kg_edit.methods.config import GraphSettings, MethodConfig
from kg_edit.methods.memit.memit import Memit, MemitConfig
from kg_edit.methods.rank_one.base import RankOneConfig
from kg_edit.methods.rank_one.rome import Rome, RomeConfig
from kg_edit.methods.workload import Workload
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.seeds import Seed


class GraphRequestConfig(GraphSettings):
    """Settings: which facts of an edit's subgraph are made as further edits, and how many."""

    statements: NonNegativeInt = Field(5, description="number of facts o* -r'-> o' (about o*) that are edited in too")
    composed: NonNegativeInt = Field(
        5, description="number of facts s -r-> o* -r'-> o' (about s) that are edited in too"
    )
    chained: NonNegativeInt = Field(
        0, description="number of such facts as continuations of the edit's prompt: '... o*, r'' o'\""
    )
    per_node: PositiveInt = Field(20, description="m: number of statements of o* to choose from")
    seed: Seed = Field(0, description="random seed of the sampled statements, facts and contexts")

    def workload(self, *, edits: int) -> Workload:
        """The workload of the method, with the largest possible number of further facts."""
        return replace(super().workload(edits=edits), facts=1 + self.statements + self.composed + self.chained)

    def facts(self, edit: Edit, graph: nx.MultiDiGraph) -> tuple[GraphFact, ...]:
        """The facts of an edit's subgraph that become further edits, in order: statements, composed, chained."""
        kinds: dict[Kind, int] = {"statement": self.statements, "composed": self.composed, "chained": self.chained}
        return tuple(
            fact
            for kind, limit in kinds.items()
            for fact in graph_facts(edit, graph, limit=limit, seed=self.seed, kinds=(kind,))
        )


class GraphRequestMethod(GraphReader):
    """Mixin for methods without a graph: adds the facts of an edit's subgraph as further edit requests.

    If the graph has no statement about o*, there are no such facts, and the edit is made alone.
    """

    config: GraphRequestConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that the facts of every edit can be put into words.

        Raises:
            KgEditError, WikidataCacheError: the graph does not know o*, or lacks a label.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, GraphRequestConfig) and graph is not None  # noqa: S101 - needs_graph
        for edit in edits:
            with annotate_errors(edit):
                config.facts(edit, config.ask(graph, edit))

    def further_edits(self, edit: Edit) -> tuple[Edit, ...]:
        """The subgraph's facts as edits in the edit's form, with ids ``ID/1``, ``ID/2``, … after the edit's id.

        Raises:
            KgEditError, WikidataCacheError: the graph does not know o*, or lacks a label.
        """
        graph = self.subgraph(edit)
        check_graph(graph)
        facts = self.config.facts(edit, graph)
        made = (fact.as_edit(f"{edit.id}/{place}") for place, fact in enumerate(facts, 1))
        return tuple(fact.in_chat(chat=edit.chat) for fact in made)

    def notes(self, edit: Edit) -> dict[str, Any]:
        """How many further facts have an object that overlaps an answer; only for edits that have test questions."""
        answers = self.test_answers(edit)
        if not answers:
            return {}
        facts = self.further_edits(edit)
        return {"answers_met": sum(any(overlaps(fact.target_new, name) for name in answers) for fact in facts)}

    def provenance(self) -> dict[str, Any]:
        """The method's provenance, plus the identity of the graph."""
        said = super().provenance()
        said["methods"][0] |= {"graph": dict(self.graph_identity or {})}
        return said


class RomeKgConfig(GraphRequestConfig, RomeConfig):
    """ROME's settings, and how many facts of each kind become further edits.

    The preset ``paper`` has ROME's published settings and 20 facts of the kind ``chained``, no others.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": RankOneConfig.default,
        "fast": RomeConfig.fast,
        "paper": {**RankOneConfig.published, "statements": 0, "composed": 0, "chained": 20},
    }

    published_as = "rome"


class RomeKg(GraphRequestMethod, Rome):
    """The edit itself, then the subgraph's facts as further ROME edits, each on the model with the earlier ones.

    A record's ``requests`` lists the records of the facts.
    """

    name = "rome-kg"
    paper = "Zhang et al., EMNLP 2024, arXiv 2402.13593 (baseline)"
    about = "ROME, and the facts of the edit's subgraph as further ROME edits, one after the other"
    config_class = RomeKgConfig
    config: RomeKgConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make the edit, then each fact, one ROME edit after the other."""
        (edit,) = edits
        facts, made = self.further_edits(edit), self._alone(edit)
        for fact in facts:
            with made.stacked_on(self.model):
                update = self._alone(fact)
            made = made + update
        first, *rest = made.edits
        provenance = {**made.provenance, "edits": [{**first, **self.notes(edit), "requests": rest}]}
        assert isinstance(made, WeightPatch)  # noqa: S101 - a sum of weight patches
        return WeightPatch(factors=made.factors, provenance=provenance)

    def _alone(self, edit: Edit) -> Patch:
        """ROME's patch of one edit, for the model in its present state."""
        (patch,) = super().edit_each((edit,))
        if isinstance(patch, Exception):
            raise patch
        return patch

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """Make each edit in turn. A fact needs the model with the earlier facts, so edits can't share a descent."""
        return EditingMethod.edit_each(self, edits)

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode the prompts of every edit and of its facts."""
        for edit in edits:
            with annotate_errors(edit):
                super().check((edit, *self.further_edits(edit)))


class MemitKgConfig(GraphRequestConfig, MemitConfig):
    """MEMIT's settings, and how many facts of each kind become further requests.

    The preset ``paper`` has MEMIT's published settings and 20 facts of the kind ``chained``, no others.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": MemitConfig.default,
        "fast": MemitConfig.fast,
        "paper": {**MemitConfig.presets["paper"], "statements": 0, "composed": 0, "chained": 20},
    }

    published_as = "memit"


class MemitKg(GraphRequestMethod, Memit):
    """The edit itself and the facts around it as one batch; many edits of a call form one batch with all their facts.

    A record's ``requests`` lists the records of the facts.
    """

    name = "memit-kg"
    paper = "Zhang et al., EMNLP 2024, arXiv 2402.13593 (baseline)"
    about = "MEMIT, and the facts of the edit's subgraph as further requests in the same batch"
    config_class = MemitKgConfig
    config: MemitKgConfig

    def requests_of(self, edit: Edit) -> tuple[Edit, ...]:
        """The requests that MEMIT writes for an edit: the edit itself, then the facts of its subgraph."""
        return (edit, *self.further_edits(edit))
