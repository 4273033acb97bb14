"""The wrong-graph control (`WrongGraph`): an edit's subgraph in which o* has the statements of other entities.

The gain of a graph method with the right graph over this one is due to the graph's content. The rest of its gain is due
to form: more parameters, longer training, known wordings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from kg_edit.edits.edit import Edit, is_entity_id
from kg_edit.errors import GraphError
from kg_edit.graphs.controls import Control, bare, hashed
from kg_edit.graphs.facts import target_of
from kg_edit.graphs.source import SAMPLING, graph_identity, read_subgraph, subject_of
from kg_edit.storage.run_folder import digest
from wikidata_cache.errors import AmbiguousLabelError, EntityNotInGraphError, UnknownLabelError
from wikidata_cache.subgraphs.options import SubgraphOptions

_Edge = tuple[str, str, str, dict[str, Any]]  # subject, object, key, data
_UNKNOWN = (
    AmbiguousLabelError,
    EntityNotInGraphError,
    GraphError,
    UnknownLabelError,
)  # for a donor


@dataclass(frozen=True, eq=False)
class WrongGraph(Control):
    """Subgraphs of the same size as those of ``right``, in which o* has the statements of other o* from ``pool``.

    Donors are drawn from the edits in ``pool``, with a seed for each edit, until o* has as many statements as in the
    right subgraph. Their further hops are copied too. Statements that the right subgraph also has are not taken,
    nor those about the edit's own s and o*. With the direction "both", statements that lead to o* count as its own, and
    those that lead to the donors are taken as well.
    """

    pool: Sequence[Edit] = ()

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """The edit's own edge, with the donors' statements instead of those of o*.

        Raises:
            GraphError: the pool has too few statements.
        """
        incoming = options.incoming
        made, wanted = bare(graph), _degree(graph, incoming)
        made.graph = {
            name: graph.graph[name] for name in options.changed() if name in graph.graph and name not in SAMPLING
        }
        for donor in self._donors(edit, options.seed):
            if _degree(made, incoming) >= wanted:
                break
            try:
                other = read_subgraph(self.right, donor, options)
            except _UNKNOWN:
                continue
            room = wanted - _degree(made, incoming)
            _graft(made, other, graph, room=room, seed=options.seed, incoming=incoming)
        if _degree(made, incoming) < wanted:
            raise GraphError(
                f"the pool of {len(self.pool)} has too few statements for a wrong graph of {edit.target_new!r}: "
                f"found {_degree(made, incoming)}, expected {wanted}; give a larger pool of entities in the graph"
            )
        return made

    def provenance(self) -> dict[str, Any]:
        """The provenance of the right graph, and a hash of the pool."""
        targets = [(donor.target_new_id, donor.target_new) for donor in self.pool]
        return {"kind": "wrong graph", "pool_sha256": digest(targets), "right": graph_identity(self.right)}

    def _donors(self, edit: Edit, seed: int) -> Iterator[Edit]:
        """The pool's edits with another o*, in an order that depends on this edit and ``seed``.

        They have this edit's subject and id: what the right graph withholds from this edit, it withholds from them.
        """
        own = {edit.subject, edit.subject_id, edit.target_new, edit.target_new_id}
        others = {
            _name(donor): donor for donor in self.pool if not own & {donor.target_new, donor.target_new_id} - {None}
        }
        for name in sorted(others, key=lambda name: hashed(seed, edit.subject, edit.target_new, name)):
            own_names = {"id": edit.id, "subject": edit.subject, "subject_id": edit.subject_id}
            yield others[name].model_copy(update=own_names)


def pool_of(names: Sequence[str]) -> tuple[Edit, ...]:
    """Make donors from their names in the graph: item ids such as Q1345, or labels."""
    return tuple(
        Edit(
            id=name,
            subject="the subject",
            prompt="{} is",
            relation="relation",  # the edit's own edge needs one, and is not used
            target_new=f"item {name}" if is_entity_id(name) else name,
            target_new_id=name if is_entity_id(name) else None,
        )
        for name in names
    )


def _name(edit: Edit) -> str:
    return edit.target_new_id or edit.target_new


def _degree(graph: nx.MultiDiGraph, incoming: bool) -> int:
    """The number of statements that leave o*; with ``incoming`` also of those that lead to it."""
    return sum(1 for _ in _statements(graph, incoming))


def _statements(graph: nx.MultiDiGraph, incoming: bool) -> Iterator[_Edge]:
    """Yield the statements that leave o*, then with ``incoming`` those that lead to it."""
    target = target_of(graph)
    for edge in graph.out_edges(target, keys=True, data=True):
        if edge[3].get("role") != "edit":
            yield edge
    for edge in graph.in_edges(target, keys=True, data=True) if incoming else ():
        if edge[3].get("role") != "edit" and edge[0] != target:
            yield edge


def _graft(
    made: nx.MultiDiGraph, other: nx.MultiDiGraph, true: nx.MultiDiGraph, *, room: int, seed: int, incoming: bool
) -> None:
    """Add at most ``room`` statements of ``other``'s o* to the o* of ``made``, with the nodes behind them."""
    root, theirs = target_of(made), target_of(other)
    if theirs in {root, subject_of(made)}:  # the same entity under another name in the pool
        return
    known = {_seen_from(root, edge) for edge in _statements(true, incoming)}
    excluded = {subject_of(made), root, subject_of(other), theirs}
    found = [(_seen_from(theirs, edge), edge[3]) for edge in _statements(other, incoming)]
    for (leaves, key, end), data in sorted(found, key=lambda one: hashed(seed, one[0][2], one[0][1])):
        start, stop = (root, end) if leaves else (end, root)
        if room and end not in excluded and (leaves, key, end) not in known and not made.has_edge(start, stop, key):
            _add(made, other, end, excluded, incoming=incoming)
            made.add_edge(start, stop, key=key, **data)
            room -= 1


def _seen_from(node: str, edge: _Edge) -> tuple[bool, str, str]:
    """Whether a statement of ``node`` leaves it, its key, and its other end."""
    leaves = edge[0] == node
    return leaves, edge[2], edge[1] if leaves else edge[0]


def _add(made: nx.MultiDiGraph, other: nx.MultiDiGraph, start: str, excluded: set[str], *, incoming: bool) -> None:
    """Add the node ``start`` and all nodes that ``other`` reaches from it.

    With ``incoming``, edges are followed in both directions.
    """
    inside = other.subgraph([key for key in other if key not in excluded])
    paths = inside.to_undirected(as_view=True) if incoming else inside
    near = nx.descendants(paths, start)
    reached = inside.subgraph({start, *near})
    made.add_nodes_from((key, data) for key, data in reached.nodes(data=True) if key not in made)
    made.add_edges_from(reached.edges(keys=True, data=True))
