"""The package's front: subgraphs of edits, from any source."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import networkx as nx

from wikidata_cache import deny
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import check_ids
from wikidata_cache.sources.opening import SourceSpec, open_source
from wikidata_cache.sources.source import Source
from wikidata_cache.subgraphs.assemble import Anchors, Role, assemble, content_hash, nearest
from wikidata_cache.subgraphs.ends import EditLike, Ends, find_ends
from wikidata_cache.subgraphs.expand import Expansion, expand
from wikidata_cache.subgraphs.facts import Facts

logger = logging.getLogger(__name__)

Root = Literal["target_new", "subject", "target_true"]


@dataclass(frozen=True)
class _Plan:
    """The options of a subgraph, checked."""

    hops: int
    per_node: int
    seed: int
    roots: Sequence[Root]
    max_edges: int | None

    def __post_init__(self) -> None:
        for name, least in (("hops", 1), ("per_node", 0), ("max_edges", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadOptionError(f"{name}={value}: expected at least {least}.")
        if isinstance(self.roots, str) or not set(self.roots) <= set(get_args(Root)):
            raise BadOptionError(f"roots={self.roots!r}: expected a sequence from {', '.join(get_args(Root))}.")

    def provenance(self) -> dict[str, object]:
        return vars(self) | {"roots": list(self.roots)}


class WikidataCache:
    """Subgraphs, labels and ids from a source: a graph file, a folder, a store on disk or an endpoint.

    `source` is whatever `open_source` takes, or a `Source`. `contact` is for Wikimedia endpoints.
    `meta_properties` and `internal_classes` replace the packaged deny-lists (`deny.py`); () switches one off.
    Answers are kept in memory as long as the object lives.
    """

    def __init__(
        self,
        source: SourceSpec | Source,
        *,
        contact: str | None = None,
        meta_properties: Collection[str] | None = None,
        internal_classes: Collection[str] | None = None,
    ) -> None:
        self.source: Source = source if isinstance(source, Source) else open_source(source, contact=contact)
        self.facts = Facts(
            self.source,
            meta=deny.meta_properties() if meta_properties is None else frozenset(meta_properties),
            internal=deny.internal_classes() if internal_classes is None else internal_classes,
        )
        self._warned: set[str] = set()  # new objects without a labelled statement

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """English labels (else mul, en-gb, en-ca, en-us, simple) by id; ids without one are absent."""
        return self.facts.labels(ids)

    def find(self, label: str) -> tuple[str, ...]:
        """The ids of all items and properties with exactly this label, sorted."""
        return self.facts.named([label])[label]

    def subgraph(
        self,
        edit: EditLike,
        *,
        hops: int = 2,
        per_node: int = 20,
        seed: int = 0,
        roots: Sequence[Root] = ("target_new",),
        max_edges: int | None = None,
    ) -> nx.MultiDiGraph:
        """The new fact s -r-> o* with what the graph says about o*, for GLAME's relational GNN.

        The edit's own edge is hop 1, the statements of o* are hop 2: each root is expanded `hops - 1` times,
        and each expanded node keeps `per_node` statements (`sample.py`). `roots` may add "subject" (without
        it the subject's statements stay out) and "target_true". `max_edges` keeps the nearest edges, the
        edit's own always. The replaced edge s -r-> o is never in it, in either direction.

        Nodes are item ids ("_:subject" for a subject without one) with `label`, `hop` and `role`; edge keys
        are property ids ("edit" for a relation without one), with `property`, `label` and `role`. What was
        read, sampled and dropped stands in `graph.graph`, with a `content_hash` equal over all backends.

        Raises EntityNotInGraphError where the graph does not know o*; UnknownLabelError or
        AmbiguousLabelError where o* has no id and its label does not settle it; BadOptionError.
        """
        plan = _Plan(hops=hops, per_node=per_node, seed=seed, roots=roots, max_edges=max_edges)
        return self._subgraphs([edit], plan)[0]

    def subgraphs(
        self,
        edits: Iterable[EditLike],
        *,
        hops: int = 2,
        per_node: int = 20,
        seed: int = 0,
        roots: Sequence[Root] = ("target_new",),
        max_edges: int | None = None,
    ) -> list[nx.MultiDiGraph]:
        """`subgraph` of each edit, in order, with the requests of all edits batched hop by hop."""
        plan = _Plan(hops=hops, per_node=per_node, seed=seed, roots=roots, max_edges=max_edges)
        return self._subgraphs(list(edits), plan)

    def neighbourhood(self, entity: str, *, hops: int = 1, per_node: int = 20, seed: int = 0) -> nx.MultiDiGraph:
        """What the graph says about one item, without any edit: its statements are hop 1.

        An item of which the graph says nothing gives a lone node.
        """
        check_ids([entity])
        plan = _Plan(hops=hops, per_node=per_node, seed=seed, roots=(), max_edges=None)
        expansion = Expansion(frontier=[entity], hops={entity: 0})
        expand(self.facts, [expansion], per_node=[per_node] * hops, seed=seed)
        anchors = Anchors(hops={entity: 0}, roles={entity: "subject"}, words={})
        graph = assemble(self.facts, anchors, expansion.steps)
        return self._signed(graph, plan, expansion)

    def _subgraphs(self, edits: Sequence[EditLike], plan: _Plan) -> list[nx.MultiDiGraph]:
        ends = find_ends(edits, self.facts)
        self.facts.out(sorted({end.edit.subject_id for end in ends if end.edit.subject_id}))
        expansions = [_expansion(end, plan, self.facts) for end in ends]
        expand(self.facts, expansions, per_node=[plan.per_node] * (plan.hops - 1), seed=plan.seed)
        return [self._finish(end, expansion, plan) for end, expansion in zip(ends, expansions, strict=True)]

    def _finish(self, ends: Ends, expansion: Expansion, plan: _Plan) -> nx.MultiDiGraph:
        room = None if plan.max_edges is None else plan.max_edges - 1
        steps = nearest(expansion.steps, room, seed=plan.seed)
        expansion.dropped["over_max_edges"] += len(expansion.steps) - len(steps)
        graph = assemble(self.facts, _anchors(ends, plan), steps)
        graph.graph |= {
            "target_new_resolved": None if ends.edit.target_new_id else ends.target_new,
            "old_edge_stated": self._states(ends.old_edge),
            "new_edge_stated": self._states(ends.new_edge) if ends.edit.subject_id else None,
            "unexpanded_roots": [root for root in plan.roots if _root_node(ends, root) is None],
        }
        if plan.hops > 1 and "target_new" in plan.roots:
            self._warn_where_unlabelled(ends)
        return self._signed(graph, plan, expansion)

    def _warn_where_unlabelled(self, ends: Ends) -> None:
        """Say, once for each expanded o*, that all its statements were dropped for want of labels."""
        dropped: Counter[str] = Counter()
        usable = self.facts.usable(ends.target_new, named=ends.words, dropped=dropped)
        unlabelled = dropped["unlabelled_item"] + dropped["unlabelled_property"]
        if usable or not unlabelled or ends.target_new in self._warned:
            return
        self._warned.add(ends.target_new)
        logger.warning(
            "%s (%s): everything that the graph %s states about it was dropped for want of labels "
            "(statements: %d). Give the graph's labels too",
            *(ends.target_new, ends.edit.target_new, self.source.name, unlabelled),
        )

    def _states(self, edge: tuple[str, str, str] | None) -> bool | None:
        return None if edge is None else edge[1:] in self.facts.out([edge[0]])[edge[0]]

    def _signed(self, graph: nx.MultiDiGraph, plan: _Plan, expansion: Expansion) -> nx.MultiDiGraph:
        dropped = {reason: count for reason, count in sorted(expansion.dropped.items()) if count}
        graph.graph |= {"source": self.source.provenance(), **plan.provenance(), "dropped": dropped}
        graph.graph["content_hash"] = content_hash(graph)
        return graph


def fetch_subgraphs(
    edits: Iterable[EditLike],
    source: SourceSpec | Source,
    *,
    contact: str | None = None,
    hops: int = 2,
    per_node: int = 20,
    seed: int = 0,
    roots: Sequence[Root] = ("target_new",),
    max_edges: int | None = None,
) -> list[nx.MultiDiGraph]:
    """`WikidataCache(source).subgraphs(edits)` in one call; see `WikidataCache.subgraph`."""
    cache = WikidataCache(source, contact=contact)
    return cache.subgraphs(edits, hops=hops, per_node=per_node, seed=seed, roots=roots, max_edges=max_edges)


def _root_node(ends: Ends, root: Root) -> str | None:
    nodes = {"subject": ends.edit.subject_id, "target_true": ends.edit.target_true_id}
    return ends.target_new if root == "target_new" else nodes[root]


def _expansion(ends: Ends, plan: _Plan, facts: Facts) -> Expansion:
    roots = [node for root in plan.roots if (node := _root_node(ends, root)) is not None]
    open_subject = "subject" in plan.roots
    return Expansion(
        frontier=list(dict.fromkeys(roots)),
        hops={**dict.fromkeys(roots, 1), ends.target_new: 1, ends.subject: 0},
        closed=lambda node: not open_subject and ends.is_subject(node, facts.labels([node]).get(node)),
        forbidden=ends.objection(facts),
        named=ends.words,
    )


def _anchors(ends: Ends, plan: _Plan) -> Anchors:
    hops = {ends.subject: 0, ends.target_new: 1}
    old = ends.edit.target_true_id
    if old and "target_true" in plan.roots:
        hops.setdefault(old, 1)
    roles: dict[str, Role] = {ends.target_new: "target_new", ends.subject: "subject"}
    if old:
        roles.setdefault(old, "target_true")
    return Anchors(hops, roles, ends.words, ends.new_edge, ends.edit.relation or "")
