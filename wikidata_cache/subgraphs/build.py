"""Build the subgraphs of edits: resolve their ids, expand the roots of all edits together, assemble labelled graphs.

One round a hop, breadth-first, for all edits: fetch the statements of every frontier node in shared requests, leave out
what an edit forbids, sample `per_node` statements of each node (`sampling.py`); the nodes they reach are the next
frontier. Every subgraph has its provenance in `.graph`: options, redirects, old edge, hubs, what was dropped and why,
and a content hash, which is the same for the same content from any source.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import networkx as nx

from kg_common.ids import is_item, is_property
from wikidata_cache.errors import TruthyOnlyError, WikidataCacheError
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.edit_ends import EditEnds, EditLike, leakage_filter, try_ends, with_merged_answers
from wikidata_cache.subgraphs.facts import Facts, as_attributes
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.rules import Consequence
from wikidata_cache.subgraphs.sampling import other_end, priority, sample
from wikidata_cache.subgraphs.subgraph import Subgraph
from wikidata_cache.values import is_value

logger = logging.getLogger(__name__)

Role = Literal["subject", "target_new", "target_true", "neighbour"]


def edit_subgraphs(edits: Sequence[EditLike], facts: Facts, options: SubgraphOptions) -> list[Subgraph]:
    """Build the subgraph of each edit; requests are shared."""
    if not edits:
        return []
    options = with_merged_answers(options, facts)
    all_ends = list[EditEnds]()
    for ends in try_ends(edits, facts):
        if isinstance(ends, WikidataCacheError):
            raise ends
        all_ends.append(ends)
    expansions = [_start(ends, options, facts) for ends in all_ends]
    # The edge s -r-> o* of the edit is hop 1, so the roots are expanded hops - 1 times.
    rounds = [options.per_node] * (options.hops - 1)
    heads = {consequence.rule.head for expansion in expansions for consequence in expansion.consequences}
    expand(facts, expansions, options, per_node=rounds, also={id_ for ends in all_ends for id_ in ends.ids} | heads)
    return [
        _edit_subgraph(ends, expansion, options, facts) for ends, expansion in zip(all_ends, expansions, strict=True)
    ]


def item_subgraph(entity: str, facts: Facts, options: SubgraphOptions) -> Subgraph:
    """Build the subgraph around one item, without any edit."""
    expansion = Expansion(frontier=[entity], hops={entity: 0})
    expand(facts, [expansion], options, per_node=[options.per_node] * options.hops, also=[entity])
    steps = list(expansion.steps.values())
    graph = _assemble(facts, steps, {entity: 0}, {entity: "subject"}, claims=options.claims)
    return _with_provenance(graph, options, expansion)


class SampledStatement(NamedTuple):
    """A sampled statement, its hop, and the node that was expanded along it (one end of the statement)."""

    hop: int
    statement: Statement
    node: str

    @property
    def reached(self) -> str:
        """The node at the statement's other end."""
        return other_end(self.statement, self.node)


@dataclass
class Expansion:
    """The neighbourhood of one edit while it is expanded."""

    frontier: Sequence[str]  # nodes to expand next
    hops: dict[str, int]  # at which each node was reached
    closed: Callable[[str], bool] = lambda node: False  # True for nodes that may be reached but not expanded
    forbidden: Callable[[Statement], str | None] = lambda statement: None  # the reason to leave out a statement
    named: Collection[str] = ()  # entities for which the edit itself has a label
    steps: dict[Statement, SampledStatement] = field(default_factory=dict)
    hubs: list[str] = field(default_factory=list)  # nodes that were not expanded along their incoming statements
    dropped: Counter[str] = field(default_factory=Counter)  # number of statements that were left out, by reason
    consequences: Sequence[Consequence] = ()  # what follows from the edit by the rules of the options

    def eligible(self, facts: Facts, options: SubgraphOptions) -> dict[str, list[Statement]]:
        """Return the statements that may be sampled, by frontier node; the facts must be prefetched."""
        if options.incoming:
            self.hubs += filter(facts.is_hub, self.frontier)
        offered: dict[str, list[Statement]] = {}
        for node in self.frontier:
            usable = facts.usable(node, options, named=self.named, dropped=self.dropped)
            reasons = [self.forbidden(statement) for statement in usable]
            self.dropped.update(reason for reason in reasons if reason is not None)
            offered[node] = [s for s, reason in zip(usable, reasons, strict=True) if reason is None]
        return offered

    def advance(
        self, eligible: Mapping[str, Sequence[Statement]], degrees: Mapping[str, int], options: SubgraphOptions, m: int
    ) -> None:
        """Sample statements of each frontier node; the nodes they reach are the next frontier.

        Args:
            eligible: statements that may be sampled, by frontier node.
            degrees: in-degrees of their other ends; only the policy "inverse-hub" uses them.
            options: seed and policy of the sampling.
            m: statements to keep of each node.
        """
        reached: dict[str, None] = {}
        for node, offered in eligible.items():
            chosen = sample(offered, m, node=node, seed=options.seed, policy=options.policy, degrees=degrees)
            self.dropped["not_sampled"] += len(offered) - len(chosen)
            for statement in chosen:
                step = SampledStatement(self.hops[node] + 1, statement, node)
                self.steps.setdefault(statement, step)  # a statement may be sampled from both of its ends
                if step.reached not in self.hops:
                    self.hops[step.reached] = step.hop
                    if not is_value(step.reached) and not self.closed(step.reached):
                        reached[step.reached] = None
        self.frontier = list(reached)


def expand(
    facts: Facts,
    expansions: Sequence[Expansion],
    options: SubgraphOptions,
    *,
    per_node: Sequence[int],
    also: Collection[str] = (),
) -> None:
    """Expand all neighbourhoods in place, one round for each entry of `per_node`.

    Args:
        facts: the source's answers.
        expansions: the neighbourhoods.
        options: direction, ranks, seed and policy.
        per_node: statements to keep of each node, for each round.
        also: ids whose labels are fetched in the same requests.
    """
    for m in per_node:
        frontier = sorted({node for expansion in expansions for node in expansion.frontier})
        facts.prefetch(frontier, options, also=also)
        eligible = [expansion.eligible(facts, options) for expansion in expansions]
        degrees: Mapping[str, int] = {}
        if options.policy == "inverse-hub":
            ends = set[str]()
            for offered in eligible:
                for node, stated in offered.items():
                    ends.update(other_end(statement, node) for statement in stated)
            degrees = dict.fromkeys(ends, 0) | facts.degrees(end for end in ends if not is_value(end))
        for expansion, offered in zip(expansions, eligible, strict=True):
            expansion.advance(offered, degrees, options, m)
    facts.labels(also)  # one request for all edits, where no round has fetched them
    if options.claims:
        facts.claims({statement.subject for expansion in expansions for statement in expansion.steps})
    if options.values and per_node and not facts.has_values and "values" not in facts.warned:
        facts.warned.add("values")
        logger.warning(
            "%s: no date and no quantity about these items. A store has them if it was made by `load --values`; the "
            "packaged extract and TSV files have none",
            facts.source.name,
        )


def _start(ends: EditEnds, options: SubgraphOptions, facts: Facts) -> Expansion:
    nodes = [ends.nodes[root] for root in options.roots]
    roots = [node for node in nodes if node is not None]
    open_subject = "subject" in options.roots
    forbidden = leakage_filter(ends, options, facts)
    consequences = list[Consequence]()
    if options.rules is not None:  # all statements that no rule reads are forbidden too
        stated = facts.out(filter(is_item, (ends.target_new, ends.subject)))
        existing = (Statement(node, *pair) for node, pairs in stated.items() for pair in pairs)
        derived = options.rules.consequences(ends.new_edge, stated[ends.target_new], existing=existing)
        read = [c.premise for c in derived if c.premise and forbidden(c.premise) is None][: options.per_node]
        consequences = [c for c in derived if c.premise is None or c.premise in read]
        forbidden = partial(_outside, read)
    return Expansion(
        frontier=list(dict.fromkeys(roots)),
        hops={**dict.fromkeys(roots, 1), ends.target_new: 1, ends.subject: 0},  # s, then the roots and o*
        # The statements of s are answers to many test questions, so s is expanded only as a root.
        closed=lambda node: not open_subject and ends.is_subject(node, facts.label(node)),
        forbidden=forbidden,
        named=ends.words,
        consequences=consequences,
    )


def _outside(read: Collection[Statement | None], statement: Statement) -> str | None:
    return None if statement in read else "no_rule"


def _edit_subgraph(ends: EditEnds, expansion: Expansion, options: SubgraphOptions, facts: Facts) -> Subgraph:
    steps = list(expansion.steps.values())
    if options.max_edges is not None:  # the nearest ones, beside the edge of the edit itself, which is always there
        steps.sort(key=lambda step: (step.hop, priority(step.statement, seed=options.seed)))
        del steps[options.max_edges - 1 :]
    expansion.dropped["over_max_edges"] += len(expansion.steps) - len(steps)

    # The old object is a node from the start only where it is a root; else a statement has to lead to it.
    old = ends.target_true_id
    hops = {ends.subject: 0, ends.target_new: 1}
    roles: dict[str, Role] = {ends.target_new: "target_new", ends.subject: "subject"}
    if old:
        roles.setdefault(old, "target_true")
        if "target_true" in options.roots:
            hops.setdefault(old, 1)
    graph = _assemble(facts, steps, hops, roles, claims=options.claims, ends=ends)
    if options.rules is not None:
        read = {step.statement for step in steps}
        graph.graph["consequences"] = [
            _add_consequence(graph, consequence, facts)
            for consequence in expansion.consequences
            if (consequence.premise is None or consequence.premise in read) and facts.label(consequence.rule.head)
        ]

    graph.graph |= {
        "target_new_resolved": None if ends.edit.target_new_id else ends.target_new,
        "redirects": dict(ends.redirects),
        "old_edge": ends.replaced(facts),
        "old_edge_stated": ends.old_edge and facts.states(ends.old_edge),
        "new_edge_stated": facts.states(ends.new_edge) if ends.subject_id else None,
        "unexpanded_roots": [root for root in options.roots if ends.nodes[root] is None],
    }
    if options.hops > 1 and "target_new" in options.roots:
        _warn_where_unlabelled(ends, facts, options)
    return _with_provenance(graph, options, expansion)


def _add_consequence(graph: Subgraph, derived: Consequence, facts: Facts) -> dict[str, object]:
    """Add the edge of a consequence, and return it with its rule, for reports."""
    subject, relation, target = derived.statement
    measures = {"rule": str(derived.rule), "support": derived.rule.support, "confidence": derived.rule.confidence}
    label = facts.label(relation)
    graph.add_edge(subject, target, key=relation, property=relation, label=label, role="consequence", **measures)
    names = [str(graph.nodes[subject]["label"]), str(label), str(graph.nodes[target]["label"])]
    return {"statement": list(derived.statement), "labels": names, **measures}


def _assemble(
    facts: Facts,
    steps: Sequence[SampledStatement],
    first: Mapping[str, int],
    roles: Mapping[str, Role],
    *,
    claims: bool,
    ends: EditEnds | None = None,
) -> Subgraph:
    """Make the graph of the sampled statements, with the edge of the edit, if any. With `claims`, edges get times.

    `first` has the nodes from which the graph starts, with their hops. They come first, the others by hop and id.
    """
    # A node's hop is that of the first step that touches it.
    hops = dict(first)
    words = ends.words if ends else {}
    for step in sorted(steps, key=lambda step: step.hop):
        hops.setdefault(step.node, step.hop - 1)
        hops.setdefault(step.reached, step.hop)
    graph = Subgraph()
    for node in [*first, *sorted(hops.keys() - first.keys(), key=lambda node: (hops[node], node))]:
        label = (facts.label(node) if is_item(node) or is_value(node) else None) or words.get(node) or node
        graph.add_node(node, label=label, hop=hops[node], role=roles.get(node, "neighbour"))
    if ends is not None:
        subject, relation, target = ends.new_edge
        text = (facts.label(relation) if is_property(relation) else None) or ends.edit.relation or ""
        graph.add_edge(subject, target, key=relation, property=relation, label=text, role="edit")
    for step in sorted(steps):
        subject, relation, target = step.statement
        more: dict[str, object] = {}
        if claims:
            stated = [c for c in facts.claims([subject])[subject] if (c.property, c.object) == (relation, target)]
            if not stated:
                raise TruthyOnlyError(subject, facts.source.name)
            more = as_attributes(stated)
        name = facts.label(relation)
        graph.add_edge(subject, target, key=relation, property=relation, label=name, role="statement", **more)
    return graph


def _warn_where_unlabelled(ends: EditEnds, facts: Facts, options: SubgraphOptions) -> None:
    """Warn, once for each o*, if all its statements were dropped because labels are missing."""
    dropped: Counter[str] = Counter()
    node = ends.target_new
    usable = facts.usable(node, options, named=ends.words, dropped=dropped)
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
    """Return the sha256 of a subgraph's sorted triples, labels, roles and claims, equal from any source."""
    edges = []
    for subject, target, key, data in graph.edges(keys=True, data=True):
        edge = (subject, key, target, data["label"], data["role"])
        edges.append((*edge, data["claims"]) if "claims" in data else edge)
    edges.sort()
    # Hops follow from the edges, so they are left out.
    nodes = sorted((node, data["label"], data["role"]) for node, data in graph.nodes(data=True))
    return hashlib.sha256(json.dumps([edges, nodes]).encode()).hexdigest()
