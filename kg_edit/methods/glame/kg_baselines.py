"""ROME-KG and MEMIT-KG, the baselines of GLAME's paper (Zhang et al., EMNLP 2024, arXiv 2402.13593).

The facts that the graph has around an edit become further edit requests in natural language: `RomeKg` makes them one
after the other with ROME, `MemitKg` in one batch with MEMIT. `GraphRequestConfig` says how many of which kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import networkx as nx
from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import GraphFact, Kind, graph_facts
from kg_edit.graphs.source import SubgraphSource, check_graph, edit_subgraph
from kg_edit.methods.base import EditingMethod, MethodConfig, annotate_errors
from kg_edit.methods.memit.memit import Memit, MemitConfig
from kg_edit.methods.rank_one.base import RankOneConfig
from kg_edit.methods.rank_one.rome import Rome, RomeConfig
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch

_HOPS = 2  # s -> o* -> o'


class GraphRequestConfig(MethodConfig):
    """Which facts of an edit's subgraph are edited in as well."""

    statements: NonNegativeInt = Field(5, description="facts o* -r'-> o', about o*, that are edited in as well")
    composed: NonNegativeInt = Field(5, description="facts s -r-> o* -r'-> o', about s, that are edited in as well")
    chained: NonNegativeInt = Field(0, description="the same read on from the edit's prompt: '... o*, r'' o'")
    per_node: PositiveInt = Field(20, description="m: statements of o* to choose from")
    seed: int = Field(0, description="of all that is drawn: statements, facts, contexts")


class GraphRequests:
    """The facts around edits in one graph, each edit's subgraph asked for once.

    Where the graph states nothing of o*, there are none, and the edit is made alone.
    """

    def __init__(self, source: SubgraphSource, config: GraphRequestConfig) -> None:
        self._source, self._config = source, config

    @cached_property
    def _subgraphs(self) -> dict[Edit, nx.MultiDiGraph]:
        return {}

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        """What the graph says around the edit.

        Raises:
            KgEditError, WikidataCacheError: the graph does not know o*, or lacks a label.
        """
        if edit not in self._subgraphs:
            config = self._config
            found = edit_subgraph(self._source, edit, hops=_HOPS, per_node=config.per_node, seed=config.seed)
            check_graph(found)
            self._subgraphs[edit] = found
        return self._subgraphs[edit]

    def facts(self, edit: Edit) -> tuple[GraphFact, ...]:
        """The facts, in the order in which they are edited in: statements first."""
        graph, config = self.subgraph(edit), self._config
        kinds: dict[Kind, int] = {
            "statement": config.statements,
            "composed": config.composed,
            "chained": config.chained,
        }
        return tuple(
            fact
            for kind, limit in kinds.items()
            for fact in graph_facts(edit, graph, limit=limit, seed=config.seed, kinds=(kind,))
        )

    def edits(self, edit: Edit) -> tuple[Edit, ...]:
        """The facts as edits, named after the one that they belong to."""
        return tuple(fact.as_edit(f"{edit.id}/{place}") for place, fact in enumerate(self.facts(edit), 1))


class GraphRequestMethod(EditingMethod):
    """Put before a method without a graph: that method, with the facts around an edit as further requests."""

    needs_graph = True
    config: GraphRequestConfig

    @cached_property
    def requests(self) -> GraphRequests:
        """The facts around edits."""
        assert self.graph is not None  # noqa: S101 - needs_graph
        return GraphRequests(self.graph, self.config)

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Also ask the graph for every edit's facts."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, GraphRequestConfig) and graph is not None  # noqa: S101 - needs_graph
        requests = GraphRequests(graph, config)
        for edit in edits:
            with annotate_errors(edit):
                requests.edits(edit)

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        """The edit's subgraph, fetched once."""
        return self.requests.subgraph(edit)

    def provenance(self) -> dict[str, Any]:
        """The method's provenance, and the identity of the graph."""
        said = super().provenance()
        said["methods"][0] |= {"graph": dict(self.graph_identity or {})}
        return said


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
            with made.stacked_on(self.model):
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
        """Encode the prompts of every edit and of its facts."""
        for edit in edits:
            with annotate_errors(edit):
                super().check((edit, *self.requests.edits(edit)))


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
        """The requests that MEMIT writes for an edit: the edit itself, then the facts around it."""
        return (edit, *self.requests.edits(edit))
