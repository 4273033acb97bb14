"""Controls of a graph method: sources of subgraphs that say less than the right graph, or something else.

- `NoGraph`: only the edit's own statement (s, r, o*).
- `ShuffledObjects`: each statement o* -r'-> o' keeps its r', but gets an object of another o* for this r'.
- `Withheld`: without the entities that an edit's withheld questions ask for.
- `WithoutAnswers`: without nodes that overlap an answer of the record's test questions.
- `WithAnswersNamed`: the right graph, with the names of these answers, so that a method can report those that it reads.

`wrong_graph.WrongGraph` is a further control, in which o* has the statements of other entities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import target_of, without_answers
from kg_edit.graphs.source import (
    FAILURES,
    SubgraphSource,
    check_graph,
    graph_identity,
    read_subgraph,
    subject_of,
    supported,
)
from kg_edit.storage.run_folder import digest
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions

_ALL = 500  # statements of a donor, at most


@dataclass(frozen=True, eq=False)
class Control:
    """A source around another source; a subclass says how it changes a subgraph."""

    right: SubgraphSource

    @property
    def supports(self) -> frozenset[str]:
        """The options of the right graph."""
        return supported(self.right)

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the changed subgraph of an edit, with this control in its attributes.

        Raises:
            GraphError: the right subgraph is not a subgraph of an edit, or can't be changed.
            ConfigError: the right graph does not support one of the options.
        """
        true = read_subgraph(self.right, edit, options)
        check_graph(true)
        made = self.changed(true, edit, options)
        made.graph |= self.provenance()
        content = (made.nodes(data="label"), made.edges(keys=True, data="label"))
        made.graph["content_hash"] = digest([sorted(map(str, part)) for part in content])
        return made

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Make a new subgraph from the right ``graph``, which is not changed."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """The name of the control, and the right graph's identity."""
        return {"kind": type(self).__name__, "right": graph_identity(self.right), **self.notes()}

    def notes(self) -> dict[str, Any]:
        """Further entries that decide the subgraphs."""
        return {}


@dataclass(frozen=True, eq=False)
class NoGraph(Control):
    """A control with only the edit's own edge."""

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Only s -r-> o*."""
        return bare(graph)


@dataclass(frozen=True, eq=False)
class ShuffledObjects(Control):
    """The statements of o* with the objects of other o*: those of the edits in ``pool`` that have the same r'.

    A statement is left out if the pool has no other object for it. Nodes behind the old objects are left out too. No
    object is one that the guard of the sampling (`Leakage`) leaves out.
    """

    pool: Sequence[Edit] = ()

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """The subgraph with other objects in o*'s statements."""
        root, made = target_of(graph), bare(graph)
        edges = [edge for edge in graph.out_edges(root, keys=True, data=True) if edge[3].get("role") != "edit"]
        own = {end for _, end, _, _ in edges} | set(made)
        for _, end, key, data in sorted(edges, key=lambda edge: (edge[2], edge[1])):
            known = self._objects.get(str(key), {})
            others = {
                name: label
                for name, label in known.items()
                if name not in own and not options.leakage.gives_away(name, label)
            }
            if others:
                drawn = min(others, key=lambda name: hashed(options.seed, edit.target_new, str(key), end, name))
                made.add_node(drawn, label=others[drawn], hop=graph.nodes[end].get("hop", 2))
                made.add_edge(root, drawn, key=key, **data)
        return made

    @cached_property
    def _objects(self) -> Mapping[str, Mapping[str, str]]:
        """For each relation, the objects of the pool's o*, with their labels."""
        found: dict[str, dict[str, str]] = {}
        for donor in {donor.target_new_id or donor.target_new: donor for donor in self.pool}.values():
            try:
                graph = read_subgraph(self.right, donor, SubgraphOptions(per_node=_ALL))
            except FAILURES:  # the graph does not know the donor
                continue
            for _, end, key, data in graph.out_edges(target_of(graph), keys=True, data=True):
                if data.get("role") != "edit":
                    found.setdefault(str(key), {})[str(end)] = str(graph.nodes[end]["label"])
        return found

    def notes(self) -> dict[str, Any]:
        """A hash of the pool."""
        return {"pool_sha256": digest(sorted({donor.target_new_id or donor.target_new for donor in self.pool}))}


@dataclass(frozen=True, eq=False)
class Withheld(Control):
    """The right graph without the entities called ``names[edit id]``, and without the nodes that only they lead to."""

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """The subgraph without the withheld nodes; the edit's own subject and object stay."""
        graph = graph.copy()
        names, ends = self.names.get(edit.id, frozenset()), {subject_of(graph), target_of(graph)}
        gone = [node for node, label in graph.nodes(data="label") if label in names and node not in ends]
        graph.remove_nodes_from(gone)
        reached = nx.node_connected_component(graph.to_undirected(as_view=True), target_of(graph)) | ends
        graph.remove_nodes_from([node for node in graph if node not in reached])
        return graph

    def notes(self) -> dict[str, Any]:
        """A hash of the withheld names."""
        return {"withheld_sha256": digest({name: sorted(some) for name, some in sorted(self.names.items())})}


@dataclass(frozen=True, eq=False)
class WithoutAnswers(Withheld):
    """The right graph without nodes that overlap a name in ``names[edit id]``: the answers of the test questions.

    If the right graph has the guard (`Leakage`), statements about such nodes are left out before any is sampled.
    """

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the subgraph of an edit without these nodes; the options are those of the right graph."""
        hidden = [name for name in hidden_answers(self, edit) if name.strip()]
        if hidden and "leakage" in self.supports:
            options = replace(options, leakage=options.leakage.also(hidden))
        return super().subgraph(edit, options)

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
        """The subgraph without these nodes and those that only they lead to; the edit's own subject and object stay."""
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
        """The right graph's identity."""
        return graph_identity(self.right)


def hidden_answers(source: object, edit: Edit) -> tuple[str, ...]:
    """The answers to the probes of an edit's record that are kept out of a graph (`WithoutAnswers`); () if none are."""
    return _names(source, edit, WithoutAnswers)


def probe_answers(source: object, edit: Edit) -> tuple[str, ...]:
    """The answers to the probes of an edit's record that a graph knows of, kept out or not; () if it knows none."""
    return _names(source, edit, WithoutAnswers | WithAnswersNamed)


def withheld_names(source: object, edit: Edit) -> tuple[str, ...]:
    """All names that are kept out of a graph for an edit (`Withheld`, `WithoutAnswers`)."""
    return _names(source, edit, Withheld)


def _names(source: object, edit: Edit, kind: Any) -> tuple[str, ...]:
    own = source.names.get(edit.id, frozenset()) if isinstance(source, kind) else ()
    return (*sorted(own), *_names(source.right, edit, kind)) if isinstance(source, Control) else ()


def bare(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """The edit's own nodes and edge without any statement, and the graph's attributes."""
    ends = {subject_of(graph), target_of(graph)}
    made = nx.MultiDiGraph(**graph.graph)
    made.add_nodes_from((key, data) for key, data in graph.nodes(data=True) if key in ends)
    edges = graph.edges(keys=True, data=True)
    made.add_edges_from(edge for edge in edges if edge[3].get("role") == "edit")
    return made


def hashed(seed: int, *parts: str) -> bytes:
    """A hash that decides a random draw, the same on all machines."""
    return hashlib.blake2b("|".join((str(seed), *parts)).encode(), digest_size=16).digest()
