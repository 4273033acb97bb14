"""Sources of subgraphs that say less, or otherwise, than the graph they stand around: controls of a graph method.

- `NoGraph`: the edit's own (s, r, o*) and nothing besides.
- `ShuffledObjects`: the statements o* -r'-> o' keep their r' and get the object of another o* for it.
- `Withheld`: without the things that an edit's withheld questions ask for.

`wrong_graph.WrongGraph`, in which o* has the statements of other entities, is the third control.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import target_of
from kg_edit.graphs.source import FAILURES, SubgraphSource, ask, subject_of
from kg_edit.storage.run_folder import digest
from wikidata_cache.subgraphs.options import Direction, Leakage
from wikidata_cache.subgraphs.sampling import Policy


@dataclass(frozen=True, eq=False)
class Control:
    """A source around another one; a subclass says what becomes of a subgraph."""

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
        """What becomes of the right subgraph; the options are the right graph's.

        Raises:
            ConfigError: the right graph does not take such an option.
        """
        given = {"policy": policy, "direction": direction, "leakage": leakage}
        more = {name: value for name, value in given.items() if value not in ("uniform", "out", None)}
        true = ask(self.right, edit, hops=hops, per_node=per_node, seed=seed, arguments=more)
        made = self.changed(true.copy(), edit, seed)
        made.graph |= self.provenance()
        said = (made.nodes(data="label"), made.edges(keys=True, data="label"))
        made.graph["content_hash"] = digest([sorted(map(str, part)) for part in said])
        return made

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, seed: int) -> nx.MultiDiGraph:
        """A copy of the right subgraph, to be changed in place or replaced."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """Which control it is, and the right graph's provenance."""
        source = getattr(self.right, "source", self.right)
        said = source.provenance() if hasattr(source, "provenance") else {"kind": type(source).__name__}
        return {
            "kind": type(self).__name__,
            "right": {key: value for key, value in said.items() if key != "fetched_at"},
            **self.notes(),
        }

    def notes(self) -> dict[str, Any]:
        """What else decides the subgraphs."""
        return {}


@dataclass(frozen=True, eq=False)
class NoGraph(Control):
    """The edit's own edge alone."""

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, seed: int) -> nx.MultiDiGraph:
        """Nothing but s -r-> o*."""
        ends = {subject_of(graph), target_of(graph)}
        graph.remove_nodes_from([node for node in graph if node not in ends])
        other = [key for *key, data in graph.edges(keys=True, data=True) if data.get("role") != "edit"]
        graph.remove_edges_from(other)
        return graph


@dataclass(frozen=True, eq=False)
class ShuffledObjects(Control):
    """Statements of o* with the objects of others: of the edits in ``pool`` that have the same r'.

    A statement for which the pool has no other object is left out.
    """

    pool: Sequence[Edit] = ()
    _objects: dict[str, dict[str, str]] = field(default_factory=dict)

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, seed: int) -> nx.MultiDiGraph:
        """The objects of o*'s statements exchanged; what hung on the old objects goes."""
        root, edges = target_of(graph), []
        for start, end, key, data in graph.edges(keys=True, data=True):
            if start == root and data.get("role") != "edit":
                edges.append((end, key, data))
        own = {end for end, _, _ in edges} | {root, subject_of(graph)}
        made = NoGraph(self.right).changed(graph.copy(), edit, seed)
        for end, key, data in sorted(edges, key=lambda edge: (edge[1], edge[0])):
            others = {name: label for name, label in self._of(str(key), seed).items() if name not in own}
            if others:
                drawn = min(others, key=lambda name: _hash(seed, edit.target_new, str(key), end, name))
                made.add_node(drawn, label=others[drawn], hop=graph.nodes[end].get("hop", 2))
                made.add_edge(root, drawn, key=key, **data)
        return made

    def _of(self, key: str, seed: int) -> Mapping[str, str]:
        """The objects (and their labels) of a relation over the pool, read once."""
        if not self._objects:
            self._objects[""] = {}
            for donor in {donor.target_new_id or donor.target_new: donor for donor in self.pool}.values():
                self._read(donor, seed)
        return self._objects.get(key, {})

    def _read(self, donor: Edit, seed: int) -> None:
        try:
            graph = ask(self.right, donor, hops=2, per_node=500, seed=seed, arguments={})
        except FAILURES:  # a donor that the graph does not know
            return
        for _, end, key, data in graph.out_edges(target_of(graph), keys=True, data=True):
            if data.get("role") != "edit":
                self._objects.setdefault(str(key), {})[str(end)] = str(graph.nodes[end]["label"])

    def notes(self) -> dict[str, Any]:
        """A hash of the pool."""
        return {"pool_sha256": digest(sorted({donor.target_new_id or donor.target_new for donor in self.pool}))}


@dataclass(frozen=True, eq=False)
class Withheld(Control):
    """The right graph without the things called ``names[edit id]``, and what only they lead to."""

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def changed(self, graph: nx.MultiDiGraph, edit: Edit, seed: int) -> nx.MultiDiGraph:
        """Without the withheld nodes; the edit's own ends stay."""
        names, ends = self.names.get(edit.id, frozenset()), {subject_of(graph), target_of(graph)}
        gone = [node for node, label in graph.nodes(data="label") if label in names and node not in ends]
        graph.remove_nodes_from(gone)
        reached = nx.node_connected_component(graph.to_undirected(as_view=True), target_of(graph)) | ends
        graph.remove_nodes_from([node for node in graph if node not in reached])
        return graph

    def notes(self) -> dict[str, Any]:
        """A hash of what is withheld."""
        return {"withheld_sha256": digest({name: sorted(some) for name, some in sorted(self.names.items())})}


def _hash(seed: int, *parts: str) -> bytes:
    return hashlib.blake2b("|".join((str(seed), *parts)).encode(), digest_size=16).digest()
