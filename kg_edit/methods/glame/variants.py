"""Variants of GLAME: the paper's ablations, and a control with a wrong graph.

- ``glame-mlp``, ``glame-gnn``: table 2's "w/ MLP" (no messages) and "w/ GNN" (messages without relations).
- ``glame-random``: the statements of o* are replaced by statements of other entities (`WrongGraph`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import networkx as nx
from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.graphs.controls import WrongGraph, pool_of
from kg_edit.graphs.source import SubgraphSource, as_source
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.entries import method_entry
from kg_edit.methods.glame.method import Glame, GlameConfig

# Teams, cities, countries, languages, firms, sports: the kinds of entities that are objects in CounterFact's edits.
POOL = (
    "Q121783", "Q1345", "Q220", "Q90", "Q60", "Q142", "Q183", "Q38", "Q1860", "Q150",
    "Q1321", "Q2283", "Q312", "Q95", "Q53268", "Q2736", "Q5372", "Q41323", "Q11463", "Q9592",
)  # fmt: skip


class AblationConfig(GlameConfig):
    """GLAME's settings, including GLAME's published presets for each model."""

    published_as: ClassVar[str | None] = "glame"


class GlameMlpConfig(AblationConfig):
    """GLAME's settings with the graph switched off for good."""

    use_graph: Literal[False] = Field(False, description="always false: no messages, only the subject's own vector")


class GlameMlp(Glame):
    """Table 2's "w/ MLP": layers of the R-GNN without messages, from the subject's own vector."""

    entry = method_entry("glame-mlp")
    config_class = GlameMlpConfig
    config: GlameMlpConfig


class GlameGnnConfig(AblationConfig):
    """GLAME's settings with relations switched off for good."""

    relations: Literal[False] = Field(False, description="always false: messages do not include the relation")


class GlameGnn(Glame):
    """Table 2's "w/ GNN": messages without relations."""

    entry = method_entry("glame-gnn")
    config_class = GlameGnnConfig
    config: GlameGnnConfig


class GlameRandomConfig(AblationConfig):
    """GLAME's settings, and the entities whose statements replace those of o*."""

    pool: tuple[str, ...] = Field(
        POOL, min_length=1, description="items (ids or labels) whose statements replace those of o*"
    )


class GlameRandom(Glame):
    """GLAME on a wrong graph of the same size: o* gets the statements of other entities (`WrongGraph`)."""

    entry = method_entry("glame-random")
    config_class = GlameRandomConfig
    config: GlameRandomConfig

    def source_of(self, graph: SubgraphSource | nx.DiGraph) -> SubgraphSource:
        """Return the wrong graph made from the given one."""
        return _make_wrong(graph, self.config)

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that the pool has enough statements for every edit's wrong subgraph."""
        assert isinstance(config, GlameRandomConfig)  # noqa: S101 - config_class
        wrong_graph = None if graph is None else _make_wrong(graph, config)
        super().check_inputs(config, wrong_graph, edits)


def _make_wrong(graph: SubgraphSource | nx.DiGraph, config: GlameRandomConfig) -> WrongGraph:
    return WrongGraph(as_source(graph), pool_of(config.pool))
