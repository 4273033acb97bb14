"""From edits to their subgraphs: settle the ends, expand the roots together, assemble, and say what was done."""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from wikidata_cache.subgraphs.assemble import Anchors, Role, assemble, content_hash, nearest
from wikidata_cache.subgraphs.edit_ends import EditLike, Ends
from wikidata_cache.subgraphs.expand import Expansion, expand
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.guards import objection
from wikidata_cache.subgraphs.leakage import Leakage
from wikidata_cache.subgraphs.options import Plan, Root
from wikidata_cache.subgraphs.resolve import find_ends
from wikidata_cache.subgraphs.subgraph import Subgraph

logger = logging.getLogger(__name__)


def edit_subgraphs(edits: Sequence[EditLike], facts: Facts, plan: Plan, leakages: Sequence[Leakage]) -> list[Subgraph]:
    """The subgraph of each edit under the plan and its own leakage guards, with shared requests.

    Raises what `find_ends` and `expand` raise.
    """
    plans = [replace(plan, leakage=leakage) for leakage in leakages]
    ends = find_ends(edits, facts)
    expansions = [_expansion(end, own, facts) for end, own in zip(ends, plans, strict=True)]
    ids = {entity for end in ends for entity in end.ids}
    _grow(facts, expansions, plan, rounds=plan.hops - 1, also=ids)
    return [_subgraph(*parts, facts) for parts in zip(ends, expansions, plans, strict=True)]


def item_subgraph(entity: str, facts: Facts, plan: Plan) -> Subgraph:
    """What the graph says about one item, without any edit; raises TruthyOnlyError as `expand` does."""
    expansion = Expansion(frontier=[entity], hops={entity: 0})
    _grow(facts, [expansion], plan, rounds=plan.hops, also=[entity])
    anchors = Anchors(hops={entity: 0}, roles={entity: "subject"}, words={})
    steps = list(expansion.steps.values())
    return _signed(assemble(facts, anchors, steps, claims=plan.claims), plan, expansion)


def _grow(facts: Facts, expansions: Sequence[Expansion], plan: Plan, *, rounds: int, also: Collection[str]) -> None:
    expand(facts, expansions, plan, per_node=[plan.per_node] * rounds, also=also)
    facts.labels(also)  # one request for all edits, where no round has asked for them
    if plan.claims:
        facts.claims({statement.subject for expansion in expansions for statement in expansion.steps})


def _expansion(ends: Ends, plan: Plan, facts: Facts) -> Expansion:
    roots = [node for root in plan.roots if (node := _root_node(ends, root)) is not None]
    open_subject = "subject" in plan.roots
    return Expansion(
        frontier=list(dict.fromkeys(roots)),
        hops={**dict.fromkeys(roots, 1), ends.target_new: 1, ends.subject: 0},
        closed=lambda node: not open_subject and ends.is_subject(node, facts.label(node)),
        forbidden=objection(ends, plan, facts),
        named=ends.words,
    )


def _root_node(ends: Ends, root: Root) -> str | None:
    return {"target_new": ends.target_new, "subject": ends.subject_id, "target_true": ends.target_true_id}[root]


def _subgraph(ends: Ends, expansion: Expansion, plan: Plan, facts: Facts) -> Subgraph:
    room = None if plan.max_edges is None else plan.max_edges - 1
    steps = nearest(list(expansion.steps.values()), room, seed=plan.seed)
    expansion.dropped["over_max_edges"] += len(expansion.steps) - len(steps)
    graph = assemble(facts, _anchors(ends, plan), steps, claims=plan.claims)
    graph.graph |= {
        "target_new_resolved": None if ends.edit.target_new_id else ends.target_new,
        "redirects": dict(ends.redirects),
        "old_edge": ends.replaced(facts),
        "old_edge_stated": ends.old_edge and facts.states(ends.old_edge),
        "new_edge_stated": facts.states(ends.new_edge) if ends.subject_id else None,
        "unexpanded_roots": [root for root in plan.roots if _root_node(ends, root) is None],
    }
    if plan.hops > 1 and "target_new" in plan.roots:
        _warn_where_unlabelled(ends, facts, plan)
    return _signed(graph, plan, expansion)


def _anchors(ends: Ends, plan: Plan) -> Anchors:
    hops = {ends.subject: 0, ends.target_new: 1}
    old = ends.target_true_id
    if old and "target_true" in plan.roots:
        hops.setdefault(old, 1)
    roles: dict[str, Role] = {ends.target_new: "target_new", ends.subject: "subject"}
    if old:
        roles.setdefault(old, "target_true")
    return Anchors(hops, roles, ends.words, ends.new_edge, ends.edit.relation or "")


def _warn_where_unlabelled(ends: Ends, facts: Facts, plan: Plan) -> None:
    """Say, once for each expanded o*, that all its statements were dropped for want of labels."""
    dropped: Counter[str] = Counter()
    node = ends.target_new
    usable = facts.usable(node, incoming=plan.incoming, claims=plan.claims, named=ends.words, dropped=dropped)
    unlabelled = dropped["unlabelled_item"] + dropped["unlabelled_property"]
    if usable or not unlabelled or node in facts.warned:
        return
    facts.warned.add(node)
    logger.warning(
        "%s (%s): everything that the graph %s states about it was dropped for want of labels "
        "(statements: %d). Give the graph's labels too",
        *(node, ends.edit.target_new, facts.source.name, unlabelled),
    )


def _signed(graph: Subgraph, plan: Plan, expansion: Expansion) -> Subgraph:
    dropped = {reason: count for reason, count in sorted(expansion.dropped.items()) if count}
    graph.graph |= {**plan.provenance(), "hubs": sorted(set(expansion.hubs)), "dropped": dropped}
    graph.graph["content_hash"] = content_hash(graph)
    return graph
