"""Controls of a graph method: sources of subgraphs with less than the right graph, or with something else.

A `Control` asks another source, the right one, for an edit's subgraph, and returns a changed copy (`Control.change`).

- `NoGraph`: only the edit's own statement (s, r, o*).
- `ShuffledObjects`: each statement o* -r'-> o' has its r', but an object of another o* for this r'.
- `Withheld`: without the entities that an edit's withheld questions ask for.
- `WithoutAnswers`: without nodes that overlap an answer of the record's test questions.
- `WithAnswersNamed`: the right graph, with the names of these answers, so that a method can report those that it reads.
- `WrongGraph`: as many statements of o*, but those of other entities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import networkx as nx

from kg_common.errors import EntityLookupError
from kg_common.json_text import digest
from kg_edit.edits.edit import Edit, is_item_id
from kg_edit.errors import GraphError
from kg_edit.graphs.facts import add_guard, hash_of, target_of, without_answers, without_nodes
from kg_edit.graphs.source import (
    SAMPLING,
    SubgraphSource,
    check_graph,
    graph_identity,
    read_subgraph,
    subject_of,
    supported,
)
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions

_MOST_STATEMENTS = 500  # of a donor
_NO_SUBGRAPH = (GraphError, EntityLookupError)  # what reading a donor raises, most often because the graph lacks it


@dataclass(frozen=True, eq=False)
class Control:
    """A source around another source, the ``right`` one; a subclass defines how it changes the subgraph of an edit.

    Controls may be put around controls: the right source of one may be another one.
    """

    right: SubgraphSource

    @property
    def supports(self) -> frozenset[str]:
        """The options of the right graph."""
        return supported(self.right)

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the changed subgraph of an edit, with this control in its attributes."""
        right = read_subgraph(self.right, edit, options)
        check_graph(right)
        graph = self.change(right, edit, options)
        graph.graph |= self.provenance()
        nodes = sorted(str(node) for node in graph.nodes(data="label"))
        edges = sorted(str(edge) for edge in graph.edges(keys=True, data="label"))
        graph.graph["content_hash"] = digest([nodes, edges])
        return graph

    def change(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
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

    def change(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return only s -r-> o*."""
        return keep_edit_alone(graph)


def states_nothing(graph: object) -> bool:
    """Return whether a source has no statement by choice: `NoGraph`, or a control around it."""
    while isinstance(graph, Control) and not isinstance(graph, NoGraph):
        graph = graph.right
    return isinstance(graph, NoGraph)


class PoolObject(NamedTuple):
    """An object of a relation r': its label, and the o* of a pool that have it (by id or label)."""

    label: str
    owners: set[str]


@dataclass(frozen=True, eq=False)
class ShuffledObjects(Control):
    """The statements of o* with the objects of other o*: those of the edits in ``pool`` that have the same r'.

    A statement gets an object that o* itself does not have for r', that no other statement of r' got, and that the
    guard of the sampling (`Leakage`) does not leave out. If the pool has none, the statement is left out. Nodes behind
    the old objects are left out too.
    """

    pool: Sequence[Edit] = ()
    # What `_pool_objects` has read of the graph, by its argument ``values``: the pool is the same for all edits
    _cached: dict[bool, Mapping[str, Mapping[str, PoolObject]]] = field(default_factory=dict, init=False, repr=False)

    def change(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the subgraph with other objects in o*'s statements."""
        root = target_of(graph)
        shuffled = keep_edit_alone(graph)
        statements = _statements(graph, incoming=False)
        statements.sort(key=lambda statement: (statement.key, statement.end))
        excluded = {statement.end for statement in statements} | set(shuffled)  # no statement gets one of these
        for statement in statements:
            relation = statement.key
            candidates = dict[str, str]()  # {node: label}
            for node, label in self._find_candidates(relation, edit, options).items():
                if node not in excluded and not shuffled.has_edge(root, node, relation):
                    candidates[node] = label
            if candidates:
                drawn = _draw(candidates, statement, edit, options.seed)
                hop = graph.nodes[statement.end].get("hop", 2)
                shuffled.add_node(drawn, label=candidates[drawn], hop=hop)
                shuffled.add_edge(root, drawn, key=relation, **statement.data)
        return shuffled

    def _find_candidates(self, key: str, edit: Edit, options: SubgraphOptions) -> dict[str, str]:
        """Return the pool's objects of the relation ``key``, by node the label, without o*'s own and guarded ones."""
        target = edit.target_new_id or edit.target_new
        candidates = {}
        for node, found in self._pool_objects(values=options.values).get(key, {}).items():
            # o* may have more objects than the sampled ones; its own are told by their owners.
            if target not in found.owners and not options.leakage.gives_away(node, [found.label]):
                candidates[node] = found.label
        return candidates

    def _pool_objects(self, *, values: bool) -> Mapping[str, Mapping[str, PoolObject]]:
        """Return the objects of the pool's o* by relation and node; with ``values`` also dates and quantities."""
        if values not in self._cached:
            self._cached[values] = self._read_pool_objects(values=values)
        return self._cached[values]

    def _read_pool_objects(self, *, values: bool) -> Mapping[str, Mapping[str, PoolObject]]:
        """Read what `_pool_objects` returns from the right graph."""
        objects: dict[str, dict[str, PoolObject]] = {}
        donors = {donor.target_new_id or donor.target_new: donor for donor in self.pool}
        for owner, donor in donors.items():
            try:
                graph = read_subgraph(self.right, donor, SubgraphOptions(per_node=_MOST_STATEMENTS, values=values))
            except _NO_SUBGRAPH:
                continue
            for statement in _statements(graph, incoming=False):
                node = str(statement.end)
                objects_of_relation = objects.setdefault(statement.key, {})
                if node not in objects_of_relation:
                    label = str(graph.nodes[statement.end]["label"])
                    objects_of_relation[node] = PoolObject(label, set())
                objects_of_relation[node].owners.add(owner)
        return objects

    def notes(self) -> dict[str, Any]:
        """Return a hash of the pool."""
        targets = {donor.target_new_id or donor.target_new for donor in self.pool}
        return {"pool_sha256": digest(sorted(targets))}


@dataclass(frozen=True, eq=False)
class Withheld(Control):
    """The right graph without the entities called ``names[edit id]``, and without the nodes that only they lead to."""

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def change(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the subgraph without the withheld nodes; the edit's own subject and object stay."""
        names = self.names.get(edit.id, frozenset())
        ends = {subject_of(graph), target_of(graph)}
        withheld = [node for node, label in graph.nodes(data="label") if label in names and node not in ends]
        return without_nodes(graph, withheld)

    def notes(self) -> dict[str, Any]:
        """Return a hash of the withheld names."""
        by_edit = {id_: sorted(withheld) for id_, withheld in sorted(self.names.items())}
        return {"withheld_sha256": digest(by_edit)}


@dataclass(frozen=True, eq=False)
class WithoutAnswers(Withheld):
    """The right graph without nodes that overlap a name in ``names[edit id]``: the answers of the test questions.

    `Withheld` leaves out only nodes that are called by a name; here a node goes too if one name contains the other.
    It is a `Withheld` all the same, so that `withheld_names` finds its names.

    Answers are kept out twice:

    1. `subgraph` has them excluded by the guard of the right graph (`Leakage`), if that has one. Then other statements
       are sampled in the place of those with an answer.
    2. `change` takes out the nodes that are left, as in a graph without a guard. Nothing takes their place.
    """

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the subgraph of an edit without these nodes; the options are those of the right graph."""
        # Also the names of other `WithoutAnswers` inside the right graph: a control around them, such as
        # `ShuffledObjects`, may bring in nodes that they do not see, and leaves out those that the guard excludes.
        hidden = [name for name in hidden_answers(self, edit) if name.strip()]
        guarded_options = add_guard(self.right, edit, options, hidden)
        return super().subgraph(edit, guarded_options)

    def change(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the subgraph without these nodes and those that only they lead to; s and o* stay."""
        return without_answers(graph, sorted(self.names.get(edit.id, frozenset())))


@dataclass(frozen=True, eq=False)
class WithAnswersNamed(Control):
    """The right graph, unchanged. ``names[edit id]`` are the answers to the probes of an edit's record.

    They leave no trace in a subgraph, which has the identity of the right graph. The class defines no `change`, because
    its `subgraph` does not call one.
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
    """Subgraphs in which o* has as many statements as in those of ``right``, but statements of other o* from ``pool``.

    The gain of a graph method with the right graph over this one is due to the graph's content. The rest of its gain is
    due to form: more parameters, longer training, known wordings.

    Donors are drawn from the edits in ``pool``, with a seed for each edit, until o* has as many statements as in the
    right subgraph. Their further hops are copied too. Statements that the right subgraph also has are not taken,
    nor those about the edit's own s and o*. With the direction "both", statements that lead to o* count as its own, and
    those that lead to the donors are taken as well.
    """

    pool: Sequence[Edit] = ()

    def change(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return the edit's own edge, with the donors' statements instead of those of o*."""
        wrong = keep_edit_alone(graph)
        wrong.graph = _keep_options(graph, options)
        incoming = options.incoming
        size = len(_statements(graph, incoming=incoming))
        count = 0  # of statements in ``wrong``
        for donor in self._donors(edit, options.seed):
            if count >= size:
                break
            try:
                other = read_subgraph(self.right, donor, options)
            except _NO_SUBGRAPH:
                continue
            _graft(wrong, other, graph, room=size - count, seed=options.seed, incoming=incoming)
            count = len(_statements(wrong, incoming=incoming))
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
        """Yield the pool's edits with another o*, in an order that depends on this edit and ``seed``.

        They have this edit's subject and id: what the right graph withholds from this edit, it withholds from them.
        """
        edit_names = {edit.subject, edit.subject_id, edit.target_new, edit.target_new_id}
        edit_names.discard(None)  # an edit without ids does not exclude the donors without an id
        donors = dict[str, Edit]()  # by o*; of several donors with one o*, the last one
        for donor in self.pool:
            if donor.target_new not in edit_names and donor.target_new_id not in edit_names:
                donors[donor.target_new_id or donor.target_new] = donor
        own_names = {"id": edit.id, "subject": edit.subject, "subject_id": edit.subject_id}
        for name in sorted(donors, key=lambda name: hash_of(seed, edit.subject, edit.target_new, name)):
            yield donors[name].model_copy(update=own_names)


def _keep_options(graph: nx.MultiDiGraph, options: SubgraphOptions) -> dict[str, Any]:
    """Return the attributes of the right graph that hold for a graph with other content, too.

    A source may note in them which options it has read, under the options' names, as in {"direction": "both"}. These
    are kept, except those of the sampling (`SAMPLING`), which every source is given. All other attributes, such as a
    hash, describe the content of the right graph.
    """
    kept = dict[str, Any]()
    for name in options.changed():
        if name in graph.graph and name not in SAMPLING:
            kept[name] = graph.graph[name]
    return kept


def pool_of(names: Sequence[str]) -> tuple[Edit, ...]:
    """Return donors from their names in the graph: item ids such as Q1345, or labels."""
    pool = []
    for name in names:
        label = name
        item = None
        if is_item_id(name):
            label = f"item {name}"
            item = name
        pool.append(
            Edit(
                id=name,
                subject="the subject",
                prompt="{} is",
                relation="relation",  # the edit's own edge needs one, and is not used
                target_new=label,
                target_new_id=item,
            )
        )
    return tuple(pool)


class Statement(NamedTuple):
    """A statement of o* in a subgraph.

    Attributes:
        leaves: whether it is a statement o* -r'-> o'; false if it leads to o*.
        key: the edge's key as a text: r', or a number in the graph of a source that gives none.
        end: the node at its other end.
        data: the attributes of the edge.
    """

    leaves: bool
    key: str
    end: str
    data: dict[str, Any]

    def edge_at(self, target: str) -> tuple[str, str, str]:
        """Return the edge (start, end, relation) of the same statement about another o*, the node ``target``."""
        if self.leaves:
            return target, self.end, self.key
        return self.end, target, self.key


def _draw(candidates: Iterable[str], statement: Statement, edit: Edit, seed: int) -> str:
    """Draw the node that a statement of o* gets as its object: the one with the smallest hash."""

    def hash_for(node: str) -> bytes:
        return hash_of(seed, edit.target_new, statement.key, statement.end, node)

    return min(candidates, key=hash_for)


def _statements(graph: nx.MultiDiGraph, *, incoming: bool) -> list[Statement]:
    """Return the statements that leave o*, with ``incoming`` also those that lead to it."""
    target = target_of(graph)
    statements = []
    for _, end, key, data in graph.out_edges(target, keys=True, data=True):
        statements.append(Statement(leaves=True, key=str(key), end=end, data=data))
    if incoming:
        for start, _, key, data in graph.in_edges(target, keys=True, data=True):
            if start != target:
                statements.append(Statement(leaves=False, key=str(key), end=start, data=data))
    return [statement for statement in statements if statement.data.get("role") != "edit"]


def _graft(
    wrong: nx.MultiDiGraph, other: nx.MultiDiGraph, right: nx.MultiDiGraph, *, room: int, seed: int, incoming: bool
) -> None:
    """Add statements of a donor's o* to the o* of ``wrong``, which is changed, with the nodes behind them.

    Args:
        wrong: the graph that gets the statements.
        other: the subgraph of the donor.
        right: the right subgraph; its statements are not added.
        room: how many statements are added at most.
        seed: decides their order.
        incoming: whether statements that lead to o* are added too.
    """
    root = target_of(wrong)
    donor = target_of(other)
    if donor in {root, subject_of(wrong)}:  # the same entity under another name in the pool
        return
    excluded = {subject_of(wrong), root, subject_of(other), donor}
    right_edges = {statement.edge_at(root) for statement in _statements(right, incoming=incoming)}
    new = []  # the statements that may be added
    for statement in _statements(other, incoming=incoming):
        edge = statement.edge_at(root)
        if statement.end not in excluded and edge not in right_edges and not wrong.has_edge(*edge):
            new.append(statement)
    new.sort(key=lambda statement: hash_of(seed, statement.end, statement.key))

    inside = other.subgraph([key for key in other if key not in excluded])
    for statement in new[:room]:
        _copy_behind(inside, statement.end, wrong, incoming=incoming)
        wrong.add_edge(*statement.edge_at(root), **statement.data)


def _copy_behind(graph: nx.MultiDiGraph, node: str, target: nx.MultiDiGraph, *, incoming: bool) -> None:
    """Copy a node of ``graph`` and all that its edges lead to into ``target``, which is changed.

    With ``incoming``, edges are followed in both directions.
    """
    paths = graph
    if incoming:
        paths = graph.to_undirected(as_view=True)
    behind = graph.subgraph({node, *nx.descendants(paths, node)})
    for name, data in behind.nodes(data=True):
        if name not in target:  # a node that the target has keeps its data
            target.add_node(name, **data)
    target.add_edges_from(behind.edges(keys=True, data=True))


def hidden_answers(source: object, edit: Edit) -> tuple[str, ...]:
    """Return the answers to the probes of an edit's record that are excluded from a graph (`WithoutAnswers`)."""
    return _read_names(source, edit, WithoutAnswers)


def probe_answers(source: object, edit: Edit) -> tuple[str, ...]:
    """Return the answers to the probes of an edit's record that `WithoutAnswers` or `WithAnswersNamed` was given."""
    return _read_names(source, edit, WithoutAnswers | WithAnswersNamed)


def withheld_names(source: object, edit: Edit) -> tuple[str, ...]:
    """Return all names that are excluded from a graph for an edit (`Withheld`, `WithoutAnswers`)."""
    return _read_names(source, edit, Withheld)


def _read_names(source: object, edit: Edit, kind: Any) -> tuple[str, ...]:
    """Return the names for an edit of those controls around a source that are of this ``kind``."""
    names = list[str]()
    while isinstance(source, Control):
        if isinstance(source, kind):
            names += sorted(source.names.get(edit.id, frozenset()))
        source = source.right
    return tuple(names)


def keep_edit_alone(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Return the edit's own nodes and edge without any statement, and the graph's attributes."""
    ends = {subject_of(graph), target_of(graph)}
    alone = nx.MultiDiGraph(**graph.graph)
    for key, data in graph.nodes(data=True):
        if key in ends:
            alone.add_node(key, **data)
    for start, end, key, data in graph.edges(keys=True, data=True):
        if data.get("role") == "edit":
            alone.add_edge(start, end, key=key, **data)
    return alone
