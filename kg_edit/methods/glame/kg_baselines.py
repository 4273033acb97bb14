"""What ROME-KG and MEMIT-KG share: the facts around an edit as further edit requests in natural language."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import networkx as nx
from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.encoding import SubgraphSource, check_graph, edit_subgraph
from kg_edit.graphs.facts import GraphFact, Kind, graph_facts
from kg_edit.methods.base import EditingMethod, MethodConfig, naming

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
            with naming(edit):
                requests.edits(edit)

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        """The edit's subgraph, fetched once."""
        return self.requests.subgraph(edit)

    def provenance(self) -> dict[str, Any]:
        """As the method's, with the graph."""
        said = super().provenance()
        said["methods"][0] |= {"graph": dict(self.graph_identity or {})}
        return said
