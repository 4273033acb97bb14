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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import networkx as nx

from kg_common.ids import is_item
from wikidata_cache.errors import TruthyOnlyError
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.edit_ends import EditEnds, EditLike, add_merged_answers, make_leakage_filter, resolve_ends
from wikidata_cache.subgraphs.facts import Claim, Facts, summarize_claims
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.rules import Consequence, Rules
from wikidata_cache.subgraphs.sampling import other_end, priority, sample
from wikidata_cache.subgraphs.subgraph import Subgraph
from wikidata_cache.values import is_value

logger = logging.getLogger(__name__)

NodeRole = Literal["subject", "target_new", "target_true", "neighbour"]


def build_edit_subgraphs(edits: Sequence[EditLike], facts: Facts, options: SubgraphOptions) -> list[Subgraph]:
    """Build the subgraph of each edit; requests are shared."""
    if not edits:
        return []
    options = add_merged_answers(options, facts)
    ends_by_edit, errors = resolve_ends(edits, facts)
    if errors:
        raise errors[min(errors)]  # of the first edit that has one
    resolved = list(ends_by_edit.values())
    expansions = [_start_expansion(ends, options, facts) for ends in resolved]
    named_ids = set[str]()
    for ends, expansion in zip(resolved, expansions, strict=True):
        named_ids |= ends.ids
        named_ids.update(consequence.rule.head for consequence in expansion.consequences)

    # The edge s -r-> o* of the edit is hop 1, so the roots are expanded hops - 1 times.
    expand(facts, expansions, options, most_by_round=[options.per_node] * (options.hops - 1), also_label=named_ids)
    graphs = []
    for ends, expansion in zip(resolved, expansions, strict=True):
        graphs.append(_assemble_edit(ends, expansion, options, facts))
    return graphs


def build_neighbourhood(entity: str, facts: Facts, options: SubgraphOptions) -> Subgraph:
    """Build the subgraph around one item, without any edit. The options that are only for edits have no effect."""
    expansion = Expansion(frontier=[entity], hops={entity: 0})
    expand(facts, [expansion], options, most_by_round=[options.per_node] * options.hops, also_label=[entity])
    graph = Subgraph()
    steps = list(expansion.steps.values())
    _add_nodes(graph, facts, _find_hops(steps, {entity: 0}), roles={entity: "subject"}, words={})
    _add_statements(graph, facts, steps, claims=options.claims)
    return _add_provenance(graph, options, expansion)


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
    """The neighbourhood of one edit while it is expanded.

    Each round, `select_eligible` lists the statements of the frontier, and `advance` samples them: it adds to `steps`
    and `hops`, and replaces the frontier.
    """

    frontier: Sequence[str]  # nodes to expand next
    hops: dict[str, int]  # at which each node was reached
    is_closed: Callable[[str], bool] = lambda node: False  # whether a node may be reached but not expanded
    find_reason: Callable[[Statement], str | None] = lambda statement: None  # why to leave a statement out; None: keep
    labelled_by_edit: Collection[str] = ()  # nodes that need no label in the graph, because the edit has one for them
    steps: dict[Statement, SampledStatement] = field(default_factory=dict)
    hubs: list[str] = field(default_factory=list)  # nodes that were not expanded along their incoming statements
    dropped: Counter[str] = field(default_factory=Counter)  # number of statements that were left out, by reason
    consequences: Sequence[Consequence] = ()  # what follows from the edit by the rules of the options

    def select_eligible(self, facts: Facts, options: SubgraphOptions) -> dict[str, list[Statement]]:
        """Return the statements that may be sampled, by frontier node; note the others in `dropped`, and the hubs.

        The facts must be prefetched.
        """
        if options.incoming:
            self.hubs += [node for node in self.frontier if facts.is_hub(node)]
        eligible: dict[str, list[Statement]] = {}
        for node in self.frontier:
            eligible[node] = []
            for statement in facts.usable(node, options, labelled=self.labelled_by_edit, dropped=self.dropped):
                reason = self.find_reason(statement)
                if reason is None:
                    eligible[node].append(statement)
                else:
                    self.dropped[reason] += 1
        return eligible

    def advance(
        self,
        eligible: Mapping[str, Sequence[Statement]],
        degrees: Mapping[str, int],
        options: SubgraphOptions,
        most: int,
    ) -> None:
        """Sample statements of each frontier node; the nodes they reach are the next frontier.

        Args:
            eligible: statements that may be sampled, by frontier node.
            degrees: in-degrees of their other ends; only the policy "inverse-hub" uses them.
            options: seed and policy of the sampling.
            most: how many statements of each node are kept.
        """
        next_frontier: list[str] = []
        for node, offered in eligible.items():
            chosen = sample(offered, most, node=node, seed=options.seed, policy=options.policy, degrees=degrees)
            self.dropped["not_sampled"] += len(offered) - len(chosen)
            for statement in chosen:
                step = SampledStatement(self.hops[node] + 1, statement, node)
                self.steps.setdefault(statement, step)  # a statement may be sampled from both of its ends
                if step.reached in self.hops:
                    continue
                self.hops[step.reached] = step.hop
                if not is_value(step.reached) and not self.is_closed(step.reached):
                    next_frontier.append(step.reached)
        self.frontier = next_frontier


def expand(
    facts: Facts,
    expansions: Sequence[Expansion],
    options: SubgraphOptions,
    *,
    most_by_round: Sequence[int],
    also_label: Collection[str] = (),
) -> None:
    """Expand all neighbourhoods in place, one round for each entry of `most_by_round`.

    Args:
        facts: the source's answers.
        expansions: the neighbourhoods.
        options: direction, ranks, seed and policy; not its `per_node`.
        most_by_round: how many statements of each node are kept, for each round.
        also_label: ids whose labels are fetched in the same requests.
    """
    for most in most_by_round:
        frontier = set[str]()
        for expansion in expansions:
            frontier.update(expansion.frontier)
        facts.prefetch(sorted(frontier), options, also_label=also_label)
        eligible = [expansion.select_eligible(facts, options) for expansion in expansions]
        degrees: Mapping[str, int] = {}
        if options.policy == "inverse-hub":
            degrees = _count_degrees(eligible, facts)
        for expansion, offered in zip(expansions, eligible, strict=True):
            expansion.advance(offered, degrees, options, most)
    facts.labels(also_label)  # one request for all edits, where no round has fetched them
    if options.claims:
        subjects = set[str]()
        for expansion in expansions:
            subjects.update(statement.subject for statement in expansion.steps)
        facts.claims(subjects)
    if options.values and most_by_round:
        _warn_without_values(facts)


def _count_degrees(eligible: Iterable[Mapping[str, Sequence[Statement]]], facts: Facts) -> dict[str, int]:
    """Return the in-degree of the other end of each statement; that of a date or a quantity is 0."""
    ends = set[str]()
    for offered in eligible:
        for node, statements in offered.items():
            ends.update(other_end(statement, node) for statement in statements)
    degrees = dict.fromkeys(ends, 0)
    degrees |= facts.degrees(end for end in ends if not is_value(end))
    return degrees


def _warn_without_values(facts: Facts) -> None:
    """Warn, once, if no item that was read has a date or a quantity."""
    if facts.has_values or "values" in facts.warned:
        return
    facts.warned.add("values")
    logger.warning(
        "%s: no date and no quantity about these items. A store has them if it was made by `load --values`; the "
        "packaged extract and TSV files have none",
        facts.source.name,
    )


def _start_expansion(ends: EditEnds, options: SubgraphOptions, facts: Facts) -> Expansion:
    """Return the expansion of an edit before its first round."""
    roots = [ends.nodes[root] for root in options.roots]
    frontier = list(dict.fromkeys(node for node in roots if node is not None))
    hops = dict.fromkeys(frontier, 1)
    hops[ends.target_new_id] = 1
    hops[ends.subject_node] = 0  # also where the subject is a root

    find_leak = make_leakage_filter(ends, options, facts)
    find_reason = find_leak
    consequences: list[Consequence] = []
    if options.rules is not None:  # then only the premises are kept, which do not leak
        consequences = _derive_consequences(options.rules, ends, facts, find_leak, most=options.per_node)
        find_reason = _keep_only({consequence.premise for consequence in consequences})

    def is_closed(node: str) -> bool:
        # The statements of s are answers to many test questions, so s is expanded only as a root.
        return "subject" not in options.roots and ends.is_subject(node, facts.names(node))

    return Expansion(
        frontier=frontier,
        hops=hops,
        is_closed=is_closed,
        find_reason=find_reason,
        labelled_by_edit=ends.words,
        consequences=consequences,
    )


def _derive_consequences(
    rules: Rules, ends: EditEnds, facts: Facts, find_leak: Callable[[Statement], str | None], *, most: int
) -> list[Consequence]:
    """Return what follows from an edit by the rules, without what the graph states about s and o* already.

    A rule may read a statement of o*, the premise. A consequence with a premise counts only if `_choose_premises`
    chooses this premise.
    """
    items = [node for node in (ends.target_new_id, ends.subject_node) if is_item(node)]
    stated = facts.out(items)
    existing: list[Statement] = []
    for node, pairs in stated.items():
        existing += [Statement(node, relation, value) for relation, value in pairs]
    derived = rules.consequences(ends.new_edge, stated[ends.target_new_id], existing=existing)

    chosen = _choose_premises(derived, find_leak, most)
    return [consequence for consequence in derived if consequence.premise is None or consequence.premise in chosen]


def _choose_premises(
    derived: Iterable[Consequence], find_leak: Callable[[Statement], str | None], most: int
) -> set[Statement]:
    """Return the statements of o* that rules may read: at most `most`, and none that leaks.

    They are the premises of the first `most` consequences that have a premise which does not leak; `derived` has the
    consequences of the most confident rules first. Since two rules may read one statement, there may be fewer than
    `most`: if the consequences have the premises A, A, B in this order, most=2 gives {A}.
    """
    premises: list[Statement] = []
    for consequence in derived:
        if consequence.premise and find_leak(consequence.premise) is None:
            premises.append(consequence.premise)
    return set(premises[:most])


def _keep_only(premises: Collection[Statement | None]) -> Callable[[Statement], str | None]:
    """Return a function that gives the reason "no_rule" for every statement that is not one of the premises.

    None among them, the premise of a consequence that has none, has no effect.
    """

    def find_reason(statement: Statement) -> str | None:
        if statement in premises:
            return None
        return "no_rule"

    return find_reason


def _assemble_edit(ends: EditEnds, expansion: Expansion, options: SubgraphOptions, facts: Facts) -> Subgraph:
    """Make the labelled graph of an expanded edit: nodes, the edit's own edge, statements, consequences, provenance."""
    steps = _choose_steps(expansion, options)
    roles: dict[str, NodeRole] = {ends.target_new_id: "target_new", ends.subject_node: "subject"}
    first_hops = {ends.subject_node: 0, ends.target_new_id: 1}
    old = ends.target_true_id
    if old and old not in roles:  # it may be the subject, or the new object
        roles[old] = "target_true"
        if "target_true" in options.roots:  # else it is a node only where a statement leads to it
            first_hops[old] = 1
    graph = Subgraph()
    _add_nodes(graph, facts, _find_hops(steps, first_hops), roles=roles, words=ends.words)
    subject, relation, target = ends.new_edge
    label = ends.find_relation_label(facts)
    graph.add_edge(subject, target, key=relation, property=relation, label=label, role="edit")
    _add_statements(graph, facts, steps, claims=options.claims)
    if options.rules is not None:
        graph.graph["consequences"] = _add_consequences(graph, expansion.consequences, steps, facts)

    graph.graph |= _describe_edit(ends, options, facts)
    if options.hops > 1 and "target_new" in options.roots:  # then o* was expanded, so its statements are prefetched
        _warn_where_unlabelled(ends, facts, options)
    return _add_provenance(graph, options, expansion)


def _choose_steps(expansion: Expansion, options: SubgraphOptions) -> list[SampledStatement]:
    """Return the sampled statements that are shown: all, or the nearest ones; count the others as dropped."""
    steps = list(expansion.steps.values())
    if options.max_edges is not None:
        steps.sort(key=lambda step: (step.hop, priority(step.statement, seed=options.seed)))
        steps = steps[: options.max_edges - 1]  # the edge of the edit itself is one of them
    expansion.dropped["over_max_edges"] += len(expansion.steps) - len(steps)
    return steps


def _describe_edit(ends: EditEnds, options: SubgraphOptions, facts: Facts) -> dict[str, object]:
    """Return the provenance of the edit: how its ids were resolved, and which of its two edges the graph states."""
    resolved = None
    if not ends.edit.target_new_id:
        resolved = ends.target_new_id
    old_edge_stated = None
    if ends.old_edge is not None:
        old_edge_stated = facts.states(ends.old_edge)
    new_edge_stated = None
    if ends.subject_id:
        new_edge_stated = facts.states(ends.new_edge)
    return {
        "target_new_resolved": resolved,
        "redirects": dict(ends.redirects),
        "old_edge": ends.describe_old_edge(facts),
        "old_edge_stated": old_edge_stated,
        "new_edge_stated": new_edge_stated,
        "unexpanded_roots": [root for root in options.roots if ends.nodes[root] is None],
    }


def _add_consequences(
    graph: Subgraph, consequences: Iterable[Consequence], steps: Iterable[SampledStatement], facts: Facts
) -> list[dict[str, object]]:
    """Add the consequences whose premise is in the graph and whose relation has a label; return them for reports."""
    read: set[Statement | None] = {step.statement for step in steps}
    read.add(None)  # a consequence without premise follows from the edit alone
    added = []
    for consequence in consequences:
        if consequence.premise in read and facts.default_label(consequence.rule.head):
            added.append(_add_consequence(graph, consequence, facts))
    return added


def _add_consequence(graph: Subgraph, derived: Consequence, facts: Facts) -> dict[str, object]:
    """Add the edge of a consequence, and return it with its rule, for reports."""
    subject, relation, target = derived.statement
    measures = {"rule": str(derived.rule), "support": derived.rule.support, "confidence": derived.rule.confidence}
    label = facts.default_label(relation)
    graph.add_edge(subject, target, key=relation, property=relation, label=label, role="consequence", **measures)
    names = [str(graph.nodes[subject]["label"]), str(label), str(graph.nodes[target]["label"])]
    return {"statement": list(derived.statement), "labels": names, **measures}


def _find_hops(steps: Iterable[SampledStatement], first: Mapping[str, int]) -> dict[str, int]:
    """Return {node: hop}, in the order of the graph: the `first` nodes, and then the others by hop and id.

    A node's hop is that of the first step that touches it. `Expansion.hops` also has nodes whose steps were cut by
    `max_edges`.
    """
    hops = dict(first)
    for step in sorted(steps, key=lambda step: step.hop):
        hops.setdefault(step.node, step.hop - 1)
        hops.setdefault(step.reached, step.hop)
    others = sorted(hops.keys() - first.keys(), key=lambda node: (hops[node], node))
    return {node: hops[node] for node in (*first, *others)}


def _add_nodes(
    graph: Subgraph, facts: Facts, hops: Mapping[str, int], *, roles: Mapping[str, NodeRole], words: Mapping[str, str]
) -> None:
    """Add nodes with hop, role and label: that of the graph, else the edit's own words, else the id."""
    for node, hop in hops.items():
        label = None
        if is_item(node) or is_value(node):
            label = facts.default_label(node)
        if not label:
            label = words.get(node, node)
        graph.add_node(node, label=label, hop=hop, role=roles.get(node, "neighbour"))


def _add_statements(graph: Subgraph, facts: Facts, steps: Iterable[SampledStatement], *, claims: bool) -> None:
    """Add the sampled statements as edges; with `claims`, edges get ranks and times."""
    for step in sorted(steps):  # by hop, then by statement
        subject, relation, target = step.statement
        ranks_and_times: dict[str, object] = {}
        if claims:
            ranks_and_times = summarize_claims(_find_claims(facts, step.statement))
        label = facts.default_label(relation)
        graph.add_edge(
            subject, target, key=relation, property=relation, label=label, role="statement", **ranks_and_times
        )


def _find_claims(facts: Facts, statement: Statement) -> list[Claim]:
    """Return the claims of a statement: it may be stated several times, with different times."""
    subject, relation, target = statement
    claims = []
    for claim in facts.claims([subject])[subject]:
        if claim.property == relation and claim.object == target:
            claims.append(claim)
    if not claims:
        raise TruthyOnlyError(subject, facts.source.name)
    return claims


def _warn_where_unlabelled(ends: EditEnds, facts: Facts, options: SubgraphOptions) -> None:
    """Warn, once for each o*, if it has no usable statement and some were left out because labels are missing.

    The statements of o* must be prefetched.
    """
    dropped: Counter[str] = Counter()
    node = ends.target_new_id
    usable = facts.usable(node, options, labelled=ends.words, dropped=dropped)
    unlabelled = dropped["unlabelled_item"] + dropped["unlabelled_property"]
    if usable or not unlabelled or node in facts.warned:
        return
    facts.warned.add(node)
    logger.warning(
        "%s (%s): all statements about it in the graph %s were left out, because labels are missing "
        "(statements: %d). Give the graph's labels too",
        node,
        ends.edit.target_new,
        facts.source.name,
        unlabelled,
    )


def _add_provenance(graph: Subgraph, options: SubgraphOptions, expansion: Expansion) -> Subgraph:
    """Add the options, what was left out and the content hash, and return the graph."""
    dropped = {reason: count for reason, count in sorted(expansion.dropped.items()) if count}
    graph.graph |= {**options.provenance(), "hubs": sorted(set(expansion.hubs)), "dropped": dropped}
    graph.graph["content_hash"] = content_hash(graph)
    return graph


def content_hash(graph: nx.MultiDiGraph) -> str:
    """Return the sha256 of a subgraph's sorted triples, labels, roles and claims, equal from any source.

    The labels are the default ones, so that the hash is the same in every language. The `content_hash` of a store is
    another one: a sum over its lines (`stores/chunks.py`).
    """
    edges = []
    for subject, target, key, data in graph.edges(keys=True, data=True):
        edge = [subject, key, target, _default_label(data), data["role"]]
        if "claims" in data:
            edge.append(data["claims"])
        edges.append(edge)
    edges.sort()
    # Hops follow from the edges, so they are left out.
    nodes = sorted((node, _default_label(data), data["role"]) for node, data in graph.nodes(data=True))
    return hashlib.sha256(json.dumps([edges, nodes]).encode()).hexdigest()


def _default_label(data: Mapping[str, Any]) -> Any:
    """Return the label before `translate.py` replaced it."""
    return data.get("default_label", data["label"])
