"""Build the subgraphs of edits: resolve their ids, expand the roots of all edits together, assemble labelled graphs.

Every subgraph has its provenance in `.graph`: options, redirects, old edge, hubs, what was dropped and why, and a
content hash, which is the same for the same content from any source.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from wikidata_cache.errors import TruthyOnlyError
from wikidata_cache.ids import Statement, is_item, is_property
from wikidata_cache.subgraphs.edit_ends import EditEnds, EditLike, find_ends, leakage_filter, with_merged_answers
from wikidata_cache.subgraphs.expand import Expansion, SampledStatement, expand
from wikidata_cache.subgraphs.facts import Facts, as_attributes
from wikidata_cache.subgraphs.options import Root, SubgraphOptions
from wikidata_cache.subgraphs.sampling import priority
from wikidata_cache.subgraphs.subgraph import Subgraph

logger = logging.getLogger(__name__)

Role = Literal["subject", "target_new", "target_true", "neighbour"]


def edit_subgraphs(edits: Sequence[EditLike], facts: Facts, options: Sequence[SubgraphOptions]) -> list[Subgraph]:
    """Build the subgraph of each edit; requests are shared.

    Args:
        edits: the edits.
        facts: the source's answers.
        options: one for each edit, which differ in their `leakage` only.

    Returns:
        One subgraph for each edit. The errors of `find_ends` and `expand` are raised.
    """
    if not edits:
        return []
    options = with_merged_answers(options, facts)
    ends = find_ends(edits, facts)
    expansions = [_expansion(end, own, facts) for end, own in zip(ends, options, strict=True)]
    ids = {entity for end in ends for entity in end.ids}
    _grow(facts, expansions, options[0], rounds=options[0].hops - 1, also=ids)
    return [_subgraph(*parts, facts) for parts in zip(ends, expansions, options, strict=True)]


def item_subgraph(entity: str, facts: Facts, options: SubgraphOptions) -> Subgraph:
    """Build the subgraph around one item, without any edit; raises TruthyOnlyError as `expand` does."""
    expansion = Expansion(frontier=[entity], hops={entity: 0})
    _grow(facts, [expansion], options, rounds=options.hops, also=[entity])
    anchors = Anchors(hops={entity: 0}, roles={entity: "subject"}, words={})
    steps = list(expansion.steps.values())
    return _with_provenance(assemble(facts, anchors, steps, claims=options.claims), options, expansion)


def _grow(
    facts: Facts, expansions: Sequence[Expansion], options: SubgraphOptions, *, rounds: int, also: Collection[str]
) -> None:
    expand(facts, expansions, options, per_node=[options.per_node] * rounds, also=also)
    facts.labels(also)  # one request for all edits, if no round has fetched them
    if options.claims:
        facts.claims({statement.subject for expansion in expansions for statement in expansion.steps})


def _expansion(ends: EditEnds, options: SubgraphOptions, facts: Facts) -> Expansion:
    roots = [node for root in options.roots if (node := _root_node(ends, root)) is not None]
    open_subject = "subject" in options.roots
    return Expansion(
        frontier=list(dict.fromkeys(roots)),
        hops={**dict.fromkeys(roots, 1), ends.target_new: 1, ends.subject: 0},
        closed=lambda node: not open_subject and ends.is_subject(node, facts.label(node)),
        forbidden=leakage_filter(ends, options, facts),
        named=ends.words,
    )


def _root_node(ends: EditEnds, root: Root) -> str | None:
    return {"target_new": ends.target_new, "subject": ends.subject_id, "target_true": ends.target_true_id}[root]


def _subgraph(ends: EditEnds, expansion: Expansion, options: SubgraphOptions, facts: Facts) -> Subgraph:
    room = None if options.max_edges is None else options.max_edges - 1
    steps = nearest(list(expansion.steps.values()), room, seed=options.seed)
    expansion.dropped["over_max_edges"] += len(expansion.steps) - len(steps)
    graph = assemble(facts, _anchors(ends, options), steps, claims=options.claims)
    graph.graph |= {
        "target_new_resolved": None if ends.edit.target_new_id else ends.target_new,
        "redirects": dict(ends.redirects),
        "old_edge": ends.replaced(facts),
        "old_edge_stated": ends.old_edge and facts.states(ends.old_edge),
        "new_edge_stated": facts.states(ends.new_edge) if ends.subject_id else None,
        "unexpanded_roots": [root for root in options.roots if _root_node(ends, root) is None],
    }
    if options.hops > 1 and "target_new" in options.roots:
        _warn_where_unlabelled(ends, facts, options)
    return _with_provenance(graph, options, expansion)


@dataclass(frozen=True)
class Anchors:
    """The nodes from which a subgraph starts, with hops, roles and labels (`words`); and the edge of the edit, if any.

    `edit_text` is the label of that edge where the graph has none.
    """

    hops: Mapping[str, int]
    roles: Mapping[str, Role]
    words: Mapping[str, str]
    edit_edge: Statement | None = None
    edit_text: str = ""


def _anchors(ends: EditEnds, options: SubgraphOptions) -> Anchors:
    hops = {ends.subject: 0, ends.target_new: 1}
    old = ends.target_true_id
    if old and "target_true" in options.roots:
        hops.setdefault(old, 1)
    roles: dict[str, Role] = {ends.target_new: "target_new", ends.subject: "subject"}
    if old:
        roles.setdefault(old, "target_true")
    return Anchors(hops, roles, ends.words, ends.new_edge, ends.edit.relation or "")


def assemble(facts: Facts, anchors: Anchors, steps: Sequence[SampledStatement], *, claims: bool = False) -> Subgraph:
    """Make the Subgraph of the sampled statements; nodes are in a fixed order: anchors first, then by hop and id.

    With `claims`, edges have rank and times. Raises TruthyOnlyError if the source has no claim for a statement.
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


def nearest(steps: Sequence[SampledStatement], limit: int | None, *, seed: int) -> list[SampledStatement]:
    """Return the first `limit` steps by hop, then by sampling priority; None keeps all. The result stays connected."""
    if limit is None or limit >= len(steps):
        return list(steps)
    return sorted(steps, key=lambda step: (step.hop, priority(step.statement, seed=seed)))[:limit]


def _warn_where_unlabelled(ends: EditEnds, facts: Facts, options: SubgraphOptions) -> None:
    """Warn, once for each o*, if all its statements were dropped because labels are missing."""
    dropped: Counter[str] = Counter()
    node = ends.target_new
    usable = facts.usable(node, incoming=options.incoming, claims=options.claims, named=ends.words, dropped=dropped)
    unlabelled = dropped["unlabelled_item"] + dropped["unlabelled_property"]
    if usable or not unlabelled or node in facts.warned:
        return
    facts.warned.add(node)
    logger.warning(
        "%s (%s): all statements about it in the graph %s were left out, because labels are missing "
        "(statements: %d). Give the graph's labels too",
        *(node, ends.edit.target_new, facts.source.name, unlabelled),
    )


def _with_provenance(graph: Subgraph, options: SubgraphOptions, expansion: Expansion) -> Subgraph:
    dropped = {reason: count for reason, count in sorted(expansion.dropped.items()) if count}
    graph.graph |= {**options.provenance(), "hubs": sorted(set(expansion.hubs)), "dropped": dropped}
    graph.graph["content_hash"] = content_hash(graph)
    return graph


def content_hash(graph: nx.MultiDiGraph) -> str:
    """Return the sha256 of a subgraph's sorted triples, labels and claims: equal for equal content from any source."""
    edges = sorted(
        (u, key, v, data["label"], data["role"], *([data["claims"]] if "claims" in data else []))
        for u, v, key, data in graph.edges(keys=True, data=True)
    )
    nodes = sorted((node, data["label"], data["role"]) for node, data in graph.nodes(data=True))
    return hashlib.sha256(json.dumps([edges, nodes]).encode()).hexdigest()
