"""Your own knowledge graph as a source of subgraphs: a networkx graph, or facts that were read from files.

`PrivateGraph.subgraph` reads the subgraph of an edit. `find_near_relations` finds misspelled relations.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import networkx as nx

from kg_common.terminal import number_of
from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError, MissingObjectError, describe
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions
from wikidata_cache.subgraphs.sampling import bottom_m

_SUBJECT = "_:subject"  # the key of the edit's subject, if the graph has no such node
# The attributes of an edge that may have its relation; the first one that is a text is the relation.
_RELATION = ("label", "relation", "type", "predicate")
_OFTEN = 5  # a relation that occurs so often is not a misspelling
_MOST_PAIRS = 100_000  # of relations that are compared, at most: more would take minutes
_NEAR = 0.88  # difflib's ratio: "locatd in" and "located in" have 0.95, "works as" and "works at" 0.875
_NEAR_LABEL = 0.8  # the same for a label, which a message only suggests
_MOST_LABELS = 10_000  # labels that are searched, at most; among more a search would take long for each edit
_SHOWN = 5  # keys in a message

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PrivateGraph:
    """Subgraphs of a directed networkx graph. The relation of an edge s -> o is its attribute ``label``, ``relation``,
    ``type`` or ``predicate``, the first one that is a text. A node's name is its ``label``, or ``name``, or its key.

    An edit's subject and new object are found among the nodes by their ids, or else by their labels. The content of the
    graph is cached, so make a new `PrivateGraph` after a change of the graph.

    Args:
        graph: the graph. A `networkx.DiGraph` has one edge from s to o; only a MultiDiGraph holds several relations.
        files: the SHA-256 of the files that it was read from, by name.
    """

    graph: nx.DiGraph
    files: Mapping[str, str] = field(default_factory=dict)

    supports = frozenset(("hops", "per_node", "seed"))  # the fields of `SubgraphOptions` that `subgraph` reads

    def __post_init__(self) -> None:
        if not self.graph.is_directed():
            raise GraphError("the graph is undirected; give a networkx.DiGraph or MultiDiGraph with edges from s to o")
        if len(self._nodes) < len(self.graph):
            counts = Counter(str(node) for node in self.graph)
            text = max(counts, key=counts.__getitem__)
            raise GraphError(f"several nodes of the graph are written {text!r}; give them keys that differ as texts")
        nameless = []
        for start, end, data in self.graph.edges(data=True):
            if _relation_of(data) is None:
                nameless.append((start, end, data))
        if nameless:
            raise _no_relation(nameless)
        self._log_size()
        self._warn_of_misspellings()

    def _log_size(self) -> None:
        """Log how much a networkx graph has; what files have is logged by their reader."""
        if self.files:
            return
        statements = number_of(self.graph.number_of_edges(), "statement")
        nodes = number_of(len(self.graph), "node")
        log.info("the networkx graph: read %s of %s, 0 skipped", statements, nodes)

    def _warn_of_misspellings(self) -> None:
        """Warn if a relation is written nearly as a frequent one."""
        near = find_near_relations(str(_relation_of(data)) for _, _, data in self.graph.edges(data=True))
        if not near:
            return
        rare, frequent = near[0]
        more = ""
        if len(near) > 1:
            more = f" ({len(near) - 1} more such relations)"
        log.warning(
            "the graph has the relation %r once and %r often; if the first is misspelled, correct it: it is read "
            "as a relation of its own%s",
            rare,
            frequent,
            more,
        )

    # The content of the graph by the texts of its nodes' keys. Each is read from the graph once.

    @cached_property
    def _nodes(self) -> dict[str, Hashable]:
        """The graph's nodes by their keys as text."""
        return {str(node): node for node in self.graph}

    @cached_property
    def _labels(self) -> dict[str, str]:
        """The name of each node by its key as text."""
        labels = {}
        for key, node in self._nodes.items():
            data = self.graph.nodes[node]
            labels[key] = key
            for name in (data.get("label"), data.get("name")):
                if isinstance(name, str | int) and str(name).strip():  # a table's empty cell may be NaN
                    labels[key] = str(name)
                    break
        return labels

    @cached_property
    def _keys_by_label(self) -> dict[str, list[str]]:
        """The keys of the nodes with each label."""
        keys: dict[str, list[str]] = {}
        for key, label in self._labels.items():
            keys.setdefault(label, []).append(key)
        return keys

    def _statements(self, key: str) -> Iterator[Statement]:
        """Yield the statements of a node."""
        for _, target, data in self.graph.out_edges(self._nodes[key], data=True):
            relation = _relation_of(data)
            assert relation is not None  # noqa: S101 - checked when the object was made
            yield Statement(key, relation, str(target))

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the edit's own edge, and the statements of o* up to ``options.hops``.

        The old edge is left out, and so are other statements of s, unless s is o*. Each node keeps at most
        ``options.per_node`` statements, the same on every machine (`wikidata_cache.subgraphs.sampling`).
        """
        target = self._find_node(edit.target_new_id, edit.target_new)
        if target is None:
            raise MissingObjectError(
                f"the graph has no node {edit.target_new!r}{self.suggest(edit.target_new)}; add it, or give its key "
                "as target_new_id: node:KEY"
            )
        subject = self._find_node(edit.subject_id, edit.subject) or _SUBJECT
        subgraph = nx.MultiDiGraph(**self.provenance())
        subgraph.add_node(subject, label=edit.subject, role="subject", hop=0)
        if target != subject:  # they are one node in "The album Weezer is by Weezer"
            subgraph.add_node(target, label=self._labels[target], role="target_new", hop=1)
        subgraph.add_edge(subject, target, key="edit", label=edit.relation_text, role="edit")
        nodes = [target]  # those that were reached at the last hop
        for hop in range(2, options.hops + 1):
            new_nodes = list[str]()
            for node in nodes:
                statements = self._new_statements(node, edit, subject)
                sampled = bottom_m(statements, options.per_node, seed=options.seed)
                new_nodes += self._add_statements(subgraph, sampled, hop)
            nodes = new_nodes
        return subgraph

    def _add_statements(self, subgraph: nx.MultiDiGraph, statements: Iterable[Statement], hop: int) -> list[str]:
        """Add statements to a subgraph, and return the nodes that it did not have; they are ``hop`` hops from s."""
        new_nodes = list[str]()
        for node, relation, end in statements:
            if end not in subgraph:
                subgraph.add_node(end, label=self._labels[end], role="neighbour", hop=hop)
                new_nodes.append(end)
            subgraph.add_edge(node, end, key=relation, label=relation, role="statement")
        return new_nodes

    def _new_statements(self, node: str, edit: Edit, subject: str) -> list[Statement]:
        """Return the statements of a node that hold after the edit; those that lead back to s are left out.

        If the node is s itself, as it is if s is o*, its statements about the old object are left out too, under any
        relation: the graph may have another name for the edit's relation.
        """
        statements = [statement for statement in self._statements(node) if statement.object != subject]
        if node == subject:
            statements = [statement for statement in statements if not self._is_old(statement.object, edit)]
        return statements

    def _is_old(self, node: str, edit: Edit) -> bool:
        """Return whether a node is the edit's old object."""
        old_key = (edit.target_true_id or "").removeprefix("node:")
        old_names = (old_key, edit.target_true)  # either may be a node's key or its label
        return node in old_names or self._labels[node] in old_names

    def _find_node(self, id_: str | None, label: str) -> str | None:
        """Return the key of the node with this id, or else with this label; None if there is neither.

        An id is the key of a node, or an id of Wikidata, which the graph need not have. ``node:KEY`` is a key only.
        """
        if id_:
            key = id_.removeprefix("node:")
            if key in self._labels:
                return key
            if id_.startswith("node:"):
                raise self._missing_key(id_, label)
        keys = self._keys_by_label.get(label, [])
        if not keys:
            return None
        if len(keys) > 1:
            shown = ", ".join(sorted(keys)[:_SHOWN])
            raise GraphError(
                f"several nodes have the label {label!r}: {shown}; give the key of one as its id: node:{min(keys)}"
            )
        return keys[0]

    def _missing_key(self, id_: str, label: str) -> GraphError:
        """Return the error for an id node:KEY with a key that no node has; it says what the ``label`` finds."""
        keys = self._keys_by_label.get(label, [])
        if not keys:
            way = "give the key of a node"
        elif len(keys) == 1:
            way = f"its label {label!r} alone finds it too"
        else:
            way = f"those with the label {label!r} are {', '.join(sorted(keys)[:_SHOWN])}"
        return GraphError(f"the graph has no node {id_.removeprefix('node:')!r}, which {id_!r} names; {way}")

    @property
    def about(self) -> str:
        """The graph in words: its files, and its size."""
        place = "in networkx"
        if self.files:
            place = ", ".join(self.files)
        return f"{place} (statements between names: {self.graph.number_of_edges():,})"

    def labels(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the labels of those ``ids`` that are keys of nodes, for the rows of an edit file that have ids."""
        return {key: self._labels[key] for key in ids if key in self._labels}

    def find(self, label: str) -> tuple[Hashable, ...]:
        """Return all nodes with this label."""
        return tuple(self._nodes[key] for key in self._keys_by_label.get(label, ()))

    def suggest(self, label: str) -> str:
        """Return ", did you mean 'x'?" with the label of a node that is written nearly as ``label``, or ""."""
        if len(self._keys_by_label) > _MOST_LABELS:
            return ""
        folded = {name.casefold(): name for name in self._keys_by_label}
        matches = get_close_matches(label.casefold(), folded, n=1, cutoff=_NEAR_LABEL)
        if not matches:
            return ""
        nearest = folded[matches[0]]
        if nearest == label:  # the node was found; the caller asks because it has no statements
            return ""
        return f", did you mean {nearest!r}?"

    def provenance(self) -> dict[str, Any]:
        """Return a hash of all nodes, labels and edges, and the files with their SHA-256."""
        provenance: dict[str, Any] = {"kind": "private graph", "content_hash": self._hash}
        if self.files:
            provenance["files"] = [{"name": name, "sha256": sha256} for name, sha256 in sorted(self.files.items())]
        return provenance

    @cached_property
    def _hash(self) -> str:
        """The SHA-256 of all nodes, labels and edges."""
        edges = list[Statement]()
        for key in self._labels:
            edges += self._statements(key)
        edges.sort()
        content = json.dumps([sorted(self._labels.items()), edges])
        return hashlib.sha256(content.encode()).hexdigest()


def _relation_of(data: Mapping[str, Any]) -> str | None:
    """Return the relation of an edge from its attributes; None if it has none."""
    for name in _RELATION:
        text = data.get(name)
        if isinstance(text, str) and text.strip():
            return text
    return None


def find_near_relations(relations: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of a relation that occurs once and a frequent one (`_OFTEN` times) that is written nearly so."""
    counts = Counter(relations)
    frequent = {name.casefold(): name for name, count in counts.items() if count >= _OFTEN}
    rare = [name for name, count in counts.items() if count == 1]
    if len(rare) * len(frequent) > _MOST_PAIRS:  # names of that many kinds are no vocabulary
        return []
    pairs = []
    for name in rare:
        near = get_close_matches(name.casefold(), frequent, n=1, cutoff=_NEAR)
        if near:
            pairs.append((name, frequent[near[0]]))
    return pairs


def _no_relation(edges: Sequence[tuple[object, object, Mapping[str, Any]]]) -> GraphError:
    """Return the error for ``edges`` without a relation; it names the first one."""
    start, end, data = edges[0]
    odd_names = [name for name in _RELATION if data.get(name) is not None]
    if odd_names:
        found = f"its {odd_names[0]} is {describe(data[odd_names[0]])}, which is no name"
    elif data:
        found = f"its attributes are {', '.join(str(name) for name in data)}"
    else:
        found = "it has no attributes"
    more = ""
    if len(edges) > 1:
        more = f" ({len(edges) - 1} more such edges)"
    return GraphError(
        f"the edge {start!r} -> {end!r} has no relation: {found}; put the relation's name into its label (or relation, "
        f"type, predicate), or remove the edge{more}"
    )
