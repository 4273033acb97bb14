"""From sampled statements to a labelled networkx graph with its content hash."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.expand import Step
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.sample import priority

Role = Literal["subject", "target_new", "target_true", "neighbour"]


@dataclass(frozen=True)
class Anchors:
    """The nodes that a subgraph hangs on: their hops, roles and own words; and the edit's edge if any."""

    hops: Mapping[str, int]
    roles: Mapping[str, Role]
    words: Mapping[str, str]
    edit_edge: Statement | None = None
    edit_text: str = ""


def assemble(facts: Facts, anchors: Anchors, steps: Sequence[Step]) -> nx.MultiDiGraph:
    """A MultiDiGraph in a fixed order of nodes and edges: anchors first, then by hop and id."""
    hops = dict(anchors.hops)
    for step in steps:
        for node, hop in ((step.statement.subject, step.hop - 1), (step.statement.object, step.hop)):
            hops.setdefault(node, hop)
    relations = {step.statement.property for step in steps}
    labels = facts.labels(sorted(node for node in hops if node[0] == "Q")) | facts.labels(sorted(relations))
    graph = nx.MultiDiGraph()
    ordered = [*anchors.hops, *sorted(hops.keys() - anchors.hops.keys(), key=lambda node: (hops[node], node))]
    for node in ordered:
        label = labels.get(node) or anchors.words.get(node) or node
        graph.add_node(node, label=label, hop=hops[node], role=anchors.roles.get(node, "neighbour"))
    if anchors.edit_edge is not None:
        _add_edit_edge(graph, facts, anchors.edit_edge, anchors.edit_text)
    for subject, relation, target in (step.statement for step in sorted(steps)):
        attributes = {"property": relation, "label": labels[relation], "role": "statement"}
        graph.add_edge(subject, target, key=relation, **attributes)
    return graph


def _add_edit_edge(graph: nx.MultiDiGraph, facts: Facts, edge: Statement, text: str) -> None:
    subject, relation, target = edge
    label = facts.labels([relation]).get(relation, text) if relation[0] == "P" else text
    graph.add_edge(subject, target, key=relation, property=relation, label=label, role="edit")


def nearest(steps: Sequence[Step], limit: int | None, *, seed: int) -> list[Step]:
    """The first `limit` steps by hop, then by sampling priority: what is left always hangs together."""
    return sorted(steps, key=lambda step: (step.hop, priority(step.statement, seed=seed)))[:limit]


def content_hash(graph: nx.MultiDiGraph) -> str:
    """The sha256 of a subgraph's sorted triples and labels: equal for equal content, whatever the source."""
    edges = sorted((u, key, v, data["label"], data["role"]) for u, v, key, data in graph.edges(keys=True, data=True))
    nodes = sorted((node, data["label"], data["role"]) for node, data in graph.nodes(data=True))
    return hashlib.sha256(json.dumps([edges, nodes]).encode()).hexdigest()
