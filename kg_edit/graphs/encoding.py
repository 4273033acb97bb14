"""A knowledge graph around an edit, as the tensors that the R-GNN reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import networkx as nx
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError
from kg_edit.graphs.source import PrivateGraph
from kg_edit.hidden_states import Pooling, label_vectors
from kg_edit.models.language_model import LanguageModel


@runtime_checkable
class SubgraphSource(Protocol):
    """Anything that can say what surrounds an edit, such as `wikidata_cache.WikidataCache`."""

    def subgraph(self, edit: Edit, *, hops: int, per_node: int, seed: int) -> nx.MultiDiGraph:
        """Nodes with ``label`` and ``role`` (one is the "subject"), edges s -> o with ``label``."""


def as_source(graph: SubgraphSource | nx.DiGraph) -> SubgraphSource:
    """``graph``, or a `PrivateGraph` around a networkx graph."""
    return PrivateGraph(graph) if isinstance(graph, nx.Graph) else graph


def edit_subgraph(source: SubgraphSource, edit: Edit, *, hops: int, per_node: int, seed: int) -> nx.MultiDiGraph:
    """The edit's subgraph; an edit that names no relation lends the words of its prompt."""
    named = edit.model_copy(update={"relation": edit.relation_text or None})
    return source.subgraph(named, hops=hops, per_node=per_node, seed=seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedSubgraph:
    """``nodes`` [nodes, d], ``edges`` [2, edges] as (object, subject), ``relations`` [edges, d], the subject's row."""

    nodes: Tensor
    edges: Tensor
    relations: Tensor
    subject: int

    def normalised(self) -> EncodedSubgraph:
        """Every vector scaled to root mean square 1: early hidden states differ in size by orders of magnitude."""
        return EncodedSubgraph(
            nodes=_unit_rms(self.nodes),
            edges=self.edges,
            relations=_unit_rms(self.relations),
            subject=self.subject,
        )

    def to(self, device: torch.device) -> EncodedSubgraph:
        """The same on another device: labels are read in an early block, the value is wanted beside a later one."""
        moved = {name: getattr(self, name).to(device) for name in ("nodes", "edges", "relations")}
        return EncodedSubgraph(**moved, subject=self.subject)


def encode_subgraph(
    model: LanguageModel, graph: nx.MultiDiGraph, *, layer: int, pooling: Pooling, start_token: bool
) -> EncodedSubgraph:
    """Nodes and relations as the model's hidden states of their labels, in one pass.

    Raises:
        GraphError: no node or several play the subject, a node or an edge has no label, or there is no edge.
    """
    keys = sorted(graph.nodes)
    edges = sorted(graph.edges(keys=True, data=True), key=lambda edge: edge[:3])
    check_graph(graph)
    labels = [graph.nodes[key]["label"] for key in keys]
    names = [data["label"] for _, _, _, data in edges]
    vectors = label_vectors(model, labels + names, layer=layer, pooling=pooling, start_token=start_token)
    row = {key: index for index, key in enumerate(keys)}
    ends = [[row[target] for _, target, _, _ in edges], [row[subject] for subject, _, _, _ in edges]]
    return EncodedSubgraph(
        nodes=vectors[: len(keys)],
        edges=torch.tensor(ends, device=vectors.device),
        relations=vectors[len(keys) :],
        subject=row[subject_of(graph)],
    )


def check_graph(graph: nx.MultiDiGraph) -> None:
    """Look for all that `encode_subgraph` needs; takes no model.

    Raises:
        GraphError: no node or several play the subject, a node or an edge has no label, or there is no edge.
    """
    subject_of(graph)
    if not graph.number_of_edges():
        raise GraphError("the subgraph has no edge; the edit's own (s, r, o*) at least belongs in it")
    for key, data in graph.nodes(data=True):
        _check_label(data, f"node {key} has no label; give it one, or leave it out of the graph")
    for subject, target, data in graph.edges(data=True):
        own = "the edit names no relation, and its prompt has no word but the subject; give relation: capital, say"
        other = f"edge {subject} -> {target} has no label; give it one, or leave it out of the graph"
        _check_label(data, own if data.get("role") == "edit" else other)


def subject_of(graph: nx.MultiDiGraph) -> str:
    """The key of the node that plays the subject.

    Raises:
        GraphError: none does, or several do.
    """
    subjects = [key for key, data in graph.nodes(data=True) if data.get("role") == "subject"]
    if len(subjects) != 1:
        raise GraphError(f"one node needs role='subject', found {len(subjects)}: {subjects[:5]}")
    return str(subjects[0])


def _check_label(data: dict[str, Any], complaint: str) -> None:
    label = data.get("label")
    if not isinstance(label, str) or not label.strip():
        raise GraphError(complaint)


def _unit_rms(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
