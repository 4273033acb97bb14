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
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import target_of, without_answers
from kg_edit.graphs.source import FAILURES, SubgraphSource, ask, check_graph, graph_identity, subject_of, takes_guards
from kg_edit.storage.run_folder import digest
from wikidata_cache.subgraphs.options import Direction, Leakage
from wikidata_cache.subgraphs.sampling import Policy

_ALL = 500  # statements of a donor, at most


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options of ``subgraph`` that decide its statements; ``more`` has those that differ from the defaults."""

    hops: int
    per_node: int
    seed: int
    more: Mapping[str, Any]

    def ask(self, source: SubgraphSource, edit: Edit) -> nx.MultiDiGraph:
        """The source's subgraph of an edit, with these options."""
        return ask(source, edit, hops=self.hops, per_node=self.per_node, seed=self.seed, arguments=self.more)


@dataclass(frozen=True, eq=False)
class Control:
    """A source around another source; a subclass says how it changes a subgraph."""

    right: SubgraphSource

    def subgraph(
        self,
        edit: Edit,
        *,
        hops: int = 2,
        per_node: int = 20,
        seed: int = 0,
        policy: Policy = "uniform",
        direction: Direction = "out",
        leakage: Leakage | None = None,
    ) -> nx.MultiDiGraph:
        """The changed subgraph of an edit. The options are those of the right graph.

        Raises:
            GraphError: the right subgraph is not a subgraph of an edit, or can't be changed.
            ConfigError: the right graph does not take one of the options.
        """
        given = {"policy": policy, "direction": direction, "leakage": leakage}
        more = {name: value for name, value in given.items() if value not in ("uniform", "out", None)}
        return self.sampled(edit, Sampling(hops=hops, per_node=per_node, seed=seed, more=more))

    def sampled(self, edit: Edit, sampling: Sampling) -> nx.MultiDiGraph:
        """The changed subgraph of an edit with the options ``sampling``, and this control in its attributes."""
        true = sampling.ask(self.right, edit)
        check_graph(true)
        made = self.changed(true, edit, sampling)
        made.graph |= self.provenance()
        said = (made.nodes(data="label"), made.edges(keys=True, data="label"))
        made.graph["content_hash"] = digest([sorted(map(str, part)) for part in said])
        return made

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, sampling: Sampling) -> nx.MultiDiGraph:
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

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, sampling: Sampling) -> nx.MultiDiGraph:
        """Only s -r-> o*."""
        return bare(graph)


@dataclass(frozen=True, eq=False)
class ShuffledObjects(Control):
    """The statements of o* with the objects of other o*: those of the edits in ``pool`` that have the same r'.

    A statement is left out if the pool has no other object for it. Nodes behind the old objects are left out too. No
    object is one that the guard of the sampling (`Leakage`) leaves out.
    """

    pool: Sequence[Edit] = ()

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, sampling: Sampling) -> nx.MultiDiGraph:
        """The subgraph with other objects in o*'s statements."""
        root, made = target_of(graph), bare(graph)
        edges = [edge for edge in graph.out_edges(root, keys=True, data=True) if edge[3].get("role") != "edit"]
        own = {end for _, end, _, _ in edges} | set(made)
        guard: Leakage = sampling.more.get("leakage") or Leakage()
        for _, end, key, data in sorted(edges, key=lambda edge: (edge[2], edge[1])):
            known = self._objects.get(str(key), {})
            others = {
                name: label for name, label in known.items() if name not in own and not guard.gives_away(name, label)
            }
            if others:
                drawn = min(others, key=lambda name: hashed(sampling.seed, edit.target_new, str(key), end, name))
                made.add_node(drawn, label=others[drawn], hop=graph.nodes[end].get("hop", 2))
                made.add_edge(root, drawn, key=key, **data)
        return made

    @cached_property
    def _objects(self) -> Mapping[str, Mapping[str, str]]:
        """For each relation, the objects of the pool's o*, with their labels."""
        found: dict[str, dict[str, str]] = {}
        whole = Sampling(hops=2, per_node=_ALL, seed=0, more={})
        for donor in {donor.target_new_id or donor.target_new: donor for donor in self.pool}.values():
            try:
                graph = whole.ask(self.right, donor)
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

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, sampling: Sampling) -> nx.MultiDiGraph:
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

    def subgraph(
        self,
        edit: Edit,
        *,
        hops: int = 2,
        per_node: int = 20,
        seed: int = 0,
        policy: Policy = "uniform",
        direction: Direction = "out",
        leakage: Leakage | None = None,
    ) -> nx.MultiDiGraph:
        """The subgraph of an edit without these nodes; the options are those of the right graph."""
        hidden = [name for name in hidden_answers(self, edit) if name.strip()]
        if hidden and takes_guards(self.right):
            own = leakage or Leakage()
            leakage = Leakage((*own.answers, *hidden), own.drop_old_edge)
        return super().subgraph(
            edit, hops=hops, per_node=per_node, seed=seed, policy=policy, direction=direction, leakage=leakage
        )

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, sampling: Sampling) -> nx.MultiDiGraph:
        """The subgraph without these nodes and those that only they lead to; the edit's own subject and object stay."""
        return without_answers(graph, sorted(self.names.get(edit.id, frozenset())))


@dataclass(frozen=True, eq=False)
class WithAnswersNamed(Control):
    """The right graph, unchanged. ``names[edit id]`` are the answers to the probes of an edit's record.

    They leave no trace in the subgraph: it has the identity of the right graph's.
    """

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def sampled(self, edit: Edit, sampling: Sampling) -> nx.MultiDiGraph:
        """The right graph's subgraph of an edit."""
        return sampling.ask(self.right, edit)

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
