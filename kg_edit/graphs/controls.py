"""Controls of a graph method: sources of subgraphs with less than the right graph, or with something else.

- `NoGraph`: only the edit's own statement (s, r, o*).
- `ShuffledObjects`: each statement o* -r'-> o' has its r', but an object of another o* for this r'.
- `Withheld`: without the entities that an edit's withheld questions ask for.
- `WithoutAnswers`: without nodes that overlap an answer of the record's test questions.
- `WithAnswersNamed`: the right graph, with the names of these answers, so that a method can report those that it reads.
- `WrongGraph`: a subgraph of the same size, in which o* has the statements of other entities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from kg_common.json_text import digest
from kg_edit.edits.edit import Edit, is_entity_id
from kg_edit.errors import FAILURES, GraphError
from kg_edit.graphs.facts import guarding, hashed, target_of, without_answers, without_nodes
from kg_edit.graphs.source import (
    SAMPLING,
    SubgraphSource,
    check_graph,
    graph_identity,
    read_subgraph,
    subject_of,
    supported,
)
from wikidata_cache.errors import AmbiguousLabelError, EntityNotInGraphError, UnknownLabelError
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions

_ALL = 500  # statements of a donor, at most


@dataclass(frozen=True, eq=False)
class Control:
    """A source around another source; a subclass defines how it changes a subgraph."""

    right: SubgraphSource

    @property
    def supports(self) -> frozenset[str]:
        """The options of the right graph."""
        return supported(self.right)

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the changed subgraph of an edit, with this control in its attributes."""
        true = read_subgraph(self.right, edit, options)
        check_graph(true)
        graph = self.changed(true, edit, options)
        graph.graph |= self.provenance()
        content = (graph.nodes(data="label"), graph.edges(keys=True, data="label"))
        graph.graph["content_hash"] = digest([sorted(map(str, part)) for part in content])
        return graph

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return a new subgraph made from the right ``graph``, which is not changed."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """Return the name of the control, and the right graph's identity."""
        return {"kind": type(self).__name__, "right": graph_identity(self.right), **self.notes()}

    def notes(self) -> dict[str, Any]:
        """Return further entries that decide the subgraphs."""
        return {}


@dataclass(frozen=True, eq=False)
class NoGraph(Control):
    """A control with only the edit's own edge."""

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return only s -r-> o*."""
        return bare(graph)


def states_nothing(graph: object) -> bool:
    """Return whether a source has no statement by choice: `NoGraph`, or a control around it."""
    while isinstance(graph, Control) and not isinstance(graph, NoGraph):
        graph = graph.right
    return isinstance(graph, NoGraph)


@dataclass(frozen=True, eq=False)
class ShuffledObjects(Control):
    """The statements of o* with the objects of other o*: those of the edits in ``pool`` that have the same r'.

    A statement is left out if the pool has no other object for it, that o* itself has not and no other statement was
    given. Nodes behind the old objects are left out too. No object is one that the guard of the sampling (`Leakage`)
    leaves out.
    """

    pool: Sequence[Edit] = ()
    _read: dict[bool, Mapping[str, Mapping[str, tuple[str, set[str]]]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the subgraph with other objects in o*'s statements."""
        root = target_of(graph)
        shuffled = bare(graph)
        edges = [edge for edge in graph.out_edges(root, keys=True, data=True) if edge[3].get("role") != "edit"]
        taken = {end for _, end, _, _ in edges} | set(shuffled)
        for _, end, key, data in sorted(edges, key=lambda edge: (edge[2], edge[1])):
            objects = self._objects(values=options.values).get(str(key), {})
            candidates = {
                name: label
                for name, (label, owners) in objects.items()
                # o* may have more objects than the sampled ones, so that its own are told by their owner
                if (edit.target_new_id or edit.target_new) not in owners
                and name not in taken
                and not shuffled.has_edge(root, name, key)
                and not options.leakage.gives_away(name, label)
            }
            if candidates:
                drawn = min(candidates, key=lambda name: hashed(options.seed, edit.target_new, str(key), end, name))
                shuffled.add_node(drawn, label=candidates[drawn], hop=graph.nodes[end].get("hop", 2))
                shuffled.add_edge(root, drawn, key=key, **data)
        return shuffled

    def _objects(self, *, values: bool) -> Mapping[str, Mapping[str, tuple[str, set[str]]]]:
        """For each relation, the objects of the pool's o*: label, and whose they are; with ``values`` also dates."""
        if values in self._read:
            return self._read[values]
        objects: dict[str, dict[str, tuple[str, set[str]]]] = {}
        for owner, donor in {donor.target_new_id or donor.target_new: donor for donor in self.pool}.items():
            try:
                graph = read_subgraph(self.right, donor, SubgraphOptions(per_node=_ALL, values=values))
            except FAILURES:  # the donor is not in the graph
                continue
            for _, end, key, data in graph.out_edges(target_of(graph), keys=True, data=True):
                if data.get("role") != "edit":
                    labelled = str(graph.nodes[end]["label"]), set[str]()
                    objects.setdefault(str(key), {}).setdefault(str(end), labelled)[1].add(owner)
        self._read[values] = objects
        return objects

    def notes(self) -> dict[str, Any]:
        """Return a hash of the pool."""
        return {"pool_sha256": digest(sorted({donor.target_new_id or donor.target_new for donor in self.pool}))}


@dataclass(frozen=True, eq=False)
class Withheld(Control):
    """The right graph without the entities called ``names[edit id]``, and without the nodes that only they lead to."""

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the subgraph without the withheld nodes; the edit's own subject and object stay."""
        names = self.names.get(edit.id, frozenset())
        ends = {subject_of(graph), target_of(graph)}
        return without_nodes(
            graph, [node for node, label in graph.nodes(data="label") if label in names and node not in ends]
        )

    def notes(self) -> dict[str, Any]:
        """Return a hash of the withheld names."""
        return {"withheld_sha256": digest({name: sorted(withheld) for name, withheld in sorted(self.names.items())})}


@dataclass(frozen=True, eq=False)
class WithoutAnswers(Withheld):
    """The right graph without nodes that overlap a name in ``names[edit id]``: the answers of the test questions.

    If the right graph has the guard (`Leakage`), other statements are sampled in the place of theirs (`guarding`).
    """

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the subgraph of an edit without these nodes; the options are those of the right graph."""
        hidden = [name for name in hidden_answers(self, edit) if name.strip()]
        return super().subgraph(edit, guarding(self.right, edit, options, hidden))

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the subgraph without these nodes and those that only they lead to; s and o* stay."""
        return without_answers(graph, sorted(self.names.get(edit.id, frozenset())))


@dataclass(frozen=True, eq=False)
class WithAnswersNamed(Control):
    """The right graph, unchanged. ``names[edit id]`` are the answers to the probes of an edit's record.

    They leave no trace in the subgraph: it has the identity of the right graph's.
    """

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the right graph's subgraph of an edit."""
        return read_subgraph(self.right, edit, options)

    def provenance(self) -> dict[str, Any]:
        """Return the right graph's identity."""
        return graph_identity(self.right)


@dataclass(frozen=True, eq=False)
class WrongGraph(Control):
    """Subgraphs of the same size as those of ``right``, in which o* has the statements of other o* from ``pool``.

    The gain of a graph method with the right graph over this one is due to the graph's content. The rest of its gain is
    due to form: more parameters, longer training, known wordings.

    Donors are drawn from the edits in ``pool``, with a seed for each edit, until o* has as many statements as in the
    right subgraph. Their further hops are copied too. Statements that the right subgraph also has are not taken,
    nor those about the edit's own s and o*. With the direction "both", statements that lead to o* count as its own, and
    those that lead to the donors are taken as well.
    """

    pool: Sequence[Edit] = ()

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the edit's own edge, with the donors' statements instead of those of o*."""
        wrong = bare(graph)
        incoming = options.incoming
        wrong.graph = {
            name: graph.graph[name] for name in options.changed() if name in graph.graph and name not in SAMPLING
        }
        size = len(_statements(graph, incoming))
        count = len(_statements(wrong, incoming))
        for donor in self._donors(edit, options.seed):
            if count >= size:
                break
            try:
                other = read_subgraph(self.right, donor, options)
            except (GraphError, AmbiguousLabelError, EntityNotInGraphError, UnknownLabelError):
                continue  # the donor is not in the graph
            _graft(wrong, other, graph, room=size - count, seed=options.seed, incoming=incoming)
            count = len(_statements(wrong, incoming))
        if count < size:
            raise GraphError(
                f"the pool of {len(self.pool)} has too few statements for a wrong graph of {edit.target_new!r}: "
                f"found {count}, expected {size}; give a larger pool of entities in the graph"
            )
        return wrong

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of the right graph, and a hash of the pool."""
        targets = [(donor.target_new_id, donor.target_new) for donor in self.pool]
        return {"kind": "wrong graph", "pool_sha256": digest(targets), "right": graph_identity(self.right)}

    def _donors(self, edit: Edit, seed: int) -> Iterator[Edit]:
        """The pool's edits with another o*, in an order that depends on this edit and ``seed``.

        They have this edit's subject and id: what the right graph withholds from this edit, it withholds from them.
        """
        edit_names = {edit.subject, edit.subject_id, edit.target_new, edit.target_new_id}
        donors = {
            donor.target_new_id or donor.target_new: donor
            for donor in self.pool
            if not edit_names & {donor.target_new, donor.target_new_id} - {None}
        }
        for name in sorted(donors, key=lambda name: hashed(seed, edit.subject, edit.target_new, name)):
            own_names = {"id": edit.id, "subject": edit.subject, "subject_id": edit.subject_id}
            yield donors[name].model_copy(update=own_names)


def pool_of(names: Sequence[str]) -> tuple[Edit, ...]:
    """Return donors from their names in the graph: item ids such as Q1345, or labels."""
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


def _statements(graph: nx.MultiDiGraph, incoming: bool) -> list[tuple[bool, str, str, dict[str, Any]]]:
    """The statements that leave o*, with ``incoming`` also those that lead to it: (leaves, key, other end, data)."""
    target = target_of(graph)
    statements = [(True, key, end, data) for _, end, key, data in graph.out_edges(target, keys=True, data=True)]
    if incoming:
        edges = graph.in_edges(target, keys=True, data=True)
        statements += [(False, key, start, data) for start, _, key, data in edges if start != target]
    return [edge for edge in statements if edge[3].get("role") != "edit"]


def _graft(
    wrong: nx.MultiDiGraph, other: nx.MultiDiGraph, true: nx.MultiDiGraph, *, room: int, seed: int, incoming: bool
) -> None:
    """Add at most ``room`` statements of ``other``'s o* to the o* of ``wrong``, with the nodes behind them."""
    root = target_of(wrong)
    theirs = target_of(other)
    if theirs in {root, subject_of(wrong)}:  # the same entity under another name in the pool
        return
    known = {edge[:3] for edge in _statements(true, incoming)}
    excluded = {subject_of(wrong), root, subject_of(other), theirs}
    inside = other.subgraph([key for key in other if key not in excluded])
    paths = inside.to_undirected(as_view=True) if incoming else inside
    for leaves, key, end, data in sorted(_statements(other, incoming), key=lambda edge: hashed(seed, edge[2], edge[1])):
        start, stop = (root, end) if leaves else (end, root)
        if room and end not in excluded and (leaves, key, end) not in known and not wrong.has_edge(start, stop, key):
            reached = inside.subgraph({end, *nx.descendants(paths, end)})  # the nodes behind the statement
            wrong.add_nodes_from((key, data) for key, data in reached.nodes(data=True) if key not in wrong)
            wrong.add_edges_from(reached.edges(keys=True, data=True))
            wrong.add_edge(start, stop, key=key, **data)
            room -= 1


def hidden_answers(source: object, edit: Edit) -> tuple[str, ...]:
    """Return the answers to the probes of an edit's record that are excluded from a graph (`WithoutAnswers`)."""
    return _names(source, edit, WithoutAnswers)


def probe_answers(source: object, edit: Edit) -> tuple[str, ...]:
    """Return the answers to the probes of an edit's record that a graph has the names of, excluded or not."""
    return _names(source, edit, WithoutAnswers | WithAnswersNamed)


def withheld_names(source: object, edit: Edit) -> tuple[str, ...]:
    """Return all names that are excluded from a graph for an edit (`Withheld`, `WithoutAnswers`)."""
    return _names(source, edit, Withheld)


def _names(source: object, edit: Edit, kind: Any) -> tuple[str, ...]:
    names = source.names.get(edit.id, frozenset()) if isinstance(source, kind) else ()
    return (*sorted(names), *_names(source.right, edit, kind)) if isinstance(source, Control) else ()


def bare(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Return the edit's own nodes and edge without any statement, and the graph's attributes."""
    ends = {subject_of(graph), target_of(graph)}
    alone = nx.MultiDiGraph(**graph.graph)
    alone.add_nodes_from((key, data) for key, data in graph.nodes(data=True) if key in ends)
    edges = graph.edges(keys=True, data=True)
    alone.add_edges_from(edge for edge in edges if edge[3].get("role") == "edit")
    return alone
