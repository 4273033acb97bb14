"""From sampled statements to a labelled networkx graph with its content hash."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from wikidata_cache.errors import TruthyOnlyError
from wikidata_cache.ids import Statement, is_item, is_property
from wikidata_cache.subgraphs.claims import as_attributes
from wikidata_cache.subgraphs.expand import Step
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.sampling import priority
from wikidata_cache.subgraphs.subgraph import Subgraph

Role = Literal["subject", "target_new", "target_true", "neighbour"]


@dataclass(frozen=True)
class Anchors:
    """The nodes that a subgraph hangs on: their hops, roles and own words; and the edit's edge if any."""

    hops: Mapping[str, int]
    roles: Mapping[str, Role]
    words: Mapping[str, str]
    edit_edge: Statement | None = None
    edit_text: str = ""


def assemble(facts: Facts, anchors: Anchors, steps: Sequence[Step], *, claims: bool = False) -> Subgraph:
    """A Subgraph in a fixed order of nodes and edges: anchors first, then by hop and id.

    With `claims`, statements carry rank and times. Raises TruthyOnlyError where the source has none of one.
    """
    hops = dict(anchors.hops)
    for step in sorted(steps, key=lambda step: step.hop):
        hops.setdefault(step.node, step.hop - 1)
        hops.setdefault(step.reached, step.hop)
    graph = Subgraph()
    for node in [*anchors.hops, *sorted(hops.keys() - anchors.hops.keys(), key=lambda node: (hops[node], node))]:
        label = (facts.label(node) if is_item(node) else None) or anchors.words.get(node) or node
        graph.add_node(node, label=label, hop=hops[node], role=anchors.roles.get(node, "neighbour"))
    if anchors.edit_edge is not None:
        _add_edit_edge(graph, facts, anchors.edit_edge, anchors.edit_text)
    for step in sorted(steps):
        subject, relation, target = step.statement
        more = _claimed(facts, step.statement) if claims else {}
        graph.add_edge(
            subject, target, key=relation, property=relation, label=facts.label(relation), role="statement", **more
        )
    return graph


def _claimed(facts: Facts, statement: Statement) -> dict[str, object]:
    claims = facts.claims([statement.subject])[statement.subject]
    found = [claim for claim in claims if (claim.property, claim.object) == statement[1:]]
    if not found:
        raise TruthyOnlyError(statement.subject, facts.source.name)
    return as_attributes(found)


def _add_edit_edge(graph: nx.MultiDiGraph, facts: Facts, edge: Statement, text: str) -> None:
    subject, relation, target = edge
    label = (facts.label(relation) if is_property(relation) else None) or text
    graph.add_edge(subject, target, key=relation, property=relation, label=label, role="edit")


def nearest(steps: Sequence[Step], limit: int | None, *, seed: int) -> list[Step]:
    """The first `limit` steps by hop, then by sampling priority: what is left always hangs together."""
    if limit is None or limit >= len(steps):
        return list(steps)
    return sorted(steps, key=lambda step: (step.hop, priority(step.statement, seed=seed)))[:limit]


def content_hash(graph: nx.MultiDiGraph) -> str:
    """The sha256 of a subgraph's sorted triples, labels and claims: equal for equal content, whatever the source."""
    edges = sorted(
        (u, key, v, data["label"], data["role"], *([data["claims"]] if "claims" in data else []))
        for u, v, key, data in graph.edges(keys=True, data=True)
    )
    nodes = sorted((node, data["label"], data["role"]) for node, data in graph.nodes(data=True))
    return hashlib.sha256(json.dumps([edges, nodes]).encode()).hexdigest()
