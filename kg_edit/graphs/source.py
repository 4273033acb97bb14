"""Where an edit's subgraph comes from: Wikidata, or your own knowledge graph, in networkx or files.

`SubgraphSettings` are the settings ``graph.*`` of all methods that read a graph; `edit_subgraph` reads the subgraph of
an edit from any source, and `check_graph` checks what all methods require of it.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import networkx as nx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kg_common.atomic import user_path
from kg_common.json_text import digest
from kg_common.terminal import number_of
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, GraphError, MissingObjectError, describe
from kg_edit.graphs.fact_files import has_names, read_facts
from kg_edit.storage.packaged import check_graph_name, packaged_graph
from kg_edit.storage.setting_fields import NAMES_A_FILE
from wikidata_cache.errors import (
    BadOptionError,
    EntityNotInGraphError,
    UnknownLabelError,
    WikidataCacheError,
)
from wikidata_cache.ids import Statement
from wikidata_cache.labels.label_index import name_words, normalise
from wikidata_cache.subgraphs.options import DEFAULTS, Direction, Leakage, SubgraphOptions
from wikidata_cache.subgraphs.rules import Rules, read_rules
from wikidata_cache.subgraphs.sampling import Policy, bottom_m

if TYPE_CHECKING:
    from wikidata_cache import WikidataCache

_SUBJECT = "_:subject"
_RELATION = (
    "label",
    "relation",
    "type",
    "predicate",
)  # attributes of an edge; the first that is a text is its relation
_OFTEN = 5  # a relation that occurs so often is not a misspelling
_PAIRS = 100_000  # of names that are compared, at most
_NEAR = 0.88  # difflib's ratio: "locatd in" and "located in" have 0.95, "works as" and "works at" 0.875
_NEAR_LABEL = 0.8  # the same for a label, which a message only suggests
_SEARCHED = 10_000  # labels that are searched, at most; among more a search would take long for each edit

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

    supports = frozenset(("hops", "per_node", "seed"))

    def __post_init__(self) -> None:
        if not self.graph.is_directed():
            raise GraphError("the graph is undirected; give a networkx.DiGraph or MultiDiGraph with edges from s to o")
        if len(self._nodes) < len(self.graph):
            counts = Counter(str(node) for node in self.graph)
            text = max(counts, key=counts.__getitem__)
            raise GraphError(f"several nodes of the graph are written {text!r}; give them keys that differ as texts")
        nameless = [edge for edge in self.graph.edges(data=True) if _relation_of(edge[2]) is None]
        if nameless:
            raise _no_relation(nameless)
        self._warn_of_misspellings()

    def _warn_of_misspellings(self) -> None:
        """Warn if a relation is written nearly as a frequent one."""
        near = near_relations(str(_relation_of(data)) for _, _, data in self.graph.edges(data=True))
        if near:
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

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the edit's own edge, and the statements of o* up to ``options.hops``.

        The old edge is left out, and so are other statements of s, unless s is o*. Each node keeps at most
        ``options.per_node`` statements, the same on every machine (`wikidata_cache.subgraphs.sampling`).
        """
        target = self._find(edit.target_new_id, edit.target_new)
        if target is None:
            raise MissingObjectError(
                f"the graph has no node {edit.target_new!r}{self.near(edit.target_new)}; add it, or give its key as "
                "target_new_id: node:KEY"
            )
        subject = self._find(edit.subject_id, edit.subject) or _SUBJECT
        subgraph = nx.MultiDiGraph(**self.provenance())
        subgraph.add_node(subject, label=edit.subject, role="subject", hop=0)
        if target != subject:  # as in "The album {} is by", of Weezer by Weezer
            subgraph.add_node(target, label=self._labels[target], role="target_new", hop=1)
        subgraph.add_edge(subject, target, key="edit", label=edit.relation_text, role="edit")
        frontier = [target]
        for hop in range(2, options.hops + 1):
            reached: list[str] = []
            for node in frontier:
                statements = [statement for statement in self._statements(node) if statement.object != subject]
                if node == subject:  # s is o* itself
                    statements = [statement for statement in statements if not self._is_old(statement.object, edit)]
                for _, relation, end in bottom_m(statements, options.per_node, seed=options.seed):
                    if end not in subgraph:
                        subgraph.add_node(end, label=self._labels[end], role="neighbour", hop=hop)
                        reached.append(end)
                    subgraph.add_edge(node, end, key=relation, label=relation, role="statement")
            frontier = reached
        return subgraph

    def _is_old(self, node: str, edit: Edit) -> bool:
        """Return whether a node is the edit's old object."""
        old_key = (edit.target_true_id or "").removeprefix("node:")
        return node in (old_key, edit.target_true) or self._labels[node] in (old_key, edit.target_true)

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
        return tuple(self._nodes[key] for key in self._named.get(label, ()))

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
        if not self.files:
            statements = number_of(len(edges), "statement")
            log.info("the networkx graph: read %s of %s, 0 skipped", statements, number_of(len(self._labels), "node"))
        content = json.dumps([sorted(self._labels.items()), edges])
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        """The nodes with each label."""
        by_label: dict[str, list[str]] = {}
        for key, name in self._labels.items():
            by_label.setdefault(name, []).append(key)
        return by_label

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

    def _find(self, id_: str | None, label: str) -> str | None:
        """Return the key of a node from its id, or else from its label; None if no node has the label.

        An id is a key; ``node:KEY`` says that it has to be one, and not an id of Wikidata.
        """
        named = self._named.get(label, [])
        shown = ", ".join(sorted(named)[:5])
        if id_:
            key = id_.removeprefix("node:")
            if key in self._labels:
                return key
            if id_.startswith("node:"):
                if not named:
                    way = "give the key of a node"
                elif len(named) == 1:
                    way = f"its label {label!r} alone finds it too"
                else:
                    way = f"those with the label {label!r} are {shown}"
                raise GraphError(f"the graph has no node {key!r}, which {id_!r} names; {way}")
        if not named:
            return None
        if len(named) > 1:
            raise GraphError(
                f"several nodes have the label {label!r}: {shown}; give the key of one as its id: node:{min(named)}"
            )
        return named[0]

    def near(self, label: str) -> str:
        """Return ", did you mean 'x'?" with the node's label that is written nearly as ``label``, or nothing."""
        if len(self._named) > _SEARCHED:
            return ""
        folded = {name.casefold(): name for name in self._named}
        matches = get_close_matches(label.casefold(), folded, n=1, cutoff=_NEAR_LABEL)
        if not matches:
            return ""
        nearest = folded[matches[0]]
        if nearest == label:
            return ""
        return f", did you mean {nearest!r}?"

    def _statements(self, key: str) -> Iterator[Statement]:
        """Yield the statements of a node."""
        for _, target, data in self.graph.out_edges(self._nodes[key], data=True):
            relation = _relation_of(data)
            assert relation is not None  # noqa: S101 - checked when the object was made
            yield Statement(key, relation, str(target))


def _relation_of(data: Mapping[str, Any]) -> str | None:
    """Return the relation of an edge from its attributes; None if it has none."""
    for name in _RELATION:
        text = data.get(name)
        if isinstance(text, str) and text.strip():
            return text
    return None


def near_relations(relations: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of a relation that occurs once and a frequent one (`_OFTEN` times) that is written nearly so."""
    counts = Counter(relations)
    frequent = {name.casefold(): name for name, count in counts.items() if count >= _OFTEN}
    rare = [name for name, count in counts.items() if count == 1]
    if len(rare) * len(frequent) > _PAIRS:  # names of that many kinds are no vocabulary, and would take minutes
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


# Errors of one edit. An unreachable graph is none of these: it ends the run, which can be resumed.
ABSENT = (EntityNotInGraphError, UnknownLabelError, MissingObjectError)  # the graph lacks the edit's o*


@runtime_checkable
class SubgraphSource(Protocol):
    """Any object that has a subgraph for an edit."""

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        """Return a graph of nodes with ``label`` and ``role`` (one "subject") and edges s -> o with ``label``."""


@runtime_checkable
class ConfigurableSource(Protocol):
    """A `SubgraphSource` whose subgraphs depend on options, such as `wikidata_cache.WikidataCache`."""

    @property
    def supports(self) -> frozenset[str]:
        """The names of the options that the source reads; the others have to keep their defaults."""

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the subgraph of an edit, as `SubgraphSource` does."""


def open_named(names: str | Path | Sequence[str | Path], *, contact: str | None = None) -> WikidataCache | PrivateGraph:
    """Open a graph by its name or names.

    Args:
        names: a packaged graph (extract), one or more files of facts (`read_facts`), or what `WikidataCache` opens:
            files and folders of Wikidata's ids, a store, a URL.
        contact: your e-mail address or URL, which Wikimedia requires.
    """
    from wikidata_cache import WikidataCache  # here, as a private graph does not need it

    if isinstance(names, str | Path):
        names = [names]
    for name in names:
        check_graph_name(str(name))
    paths = [user_path(name) for name in names]
    try:
        fact_paths = [path for path in paths if has_names(path)]
        if not fact_paths:
            sources = [packaged_graph(str(name)) or name for name in names]
            if len(sources) == 1:
                return WikidataCache(sources[0], contact=contact)
            return WikidataCache(sources, contact=contact)
        if len(fact_paths) < len(paths):
            raise GraphError(
                f"{fact_paths[0]} has names, so it can't be combined with a graph of Wikidata's ids; give one kind"
            )
        graph, files = read_facts(fact_paths)
    except WikidataCacheError as error:
        raise GraphError(str(error)) from error
    try:
        return PrivateGraph(graph, files)
    except GraphError as error:  # only GraphML can have such edges
        raise GraphError(f"{fact_paths[0]}: {error}") from None


def as_source(graph: SubgraphSource | nx.DiGraph) -> SubgraphSource:
    """Return ``graph``; a networkx graph is wrapped in a `PrivateGraph`."""
    if isinstance(graph, nx.Graph):
        return PrivateGraph(graph)
    if not isinstance(graph, SubgraphSource):
        expected = "a graph: a networkx.MultiDiGraph, the path of a file, or an object with subgraph(edit)"
        raise GraphError(f"found {describe(graph)}; expected {expected}")
    return graph


def graph_identity(graph: SubgraphSource) -> dict[str, Any]:
    """Return the graph's files and hashes, or its URL, without the time at which it was asked."""
    source: Any = getattr(graph, "source", graph)
    identity = {"kind": type(source).__name__}
    if hasattr(source, "provenance"):
        identity = source.provenance()
    return {key: value for key, value in identity.items() if key != "fetched_at"}


class LeakageSettings(BaseModel):
    """The settings ``graph.leakage.*``: statements to leave out because they contain a test's answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: tuple[str, ...] = Field((), description="ids or labels; statements from or to them are left out")
    drop_old_edge: bool = Field(True, description="leave out the replaced fact s -r-> o")

    @field_validator("answers")
    @classmethod
    def _refuse_empty_names(cls, answers: tuple[str, ...]) -> tuple[str, ...]:
        return Leakage(answers).answers  # refuses an empty name


class SubgraphSettings(BaseModel):
    """The settings ``graph.*`` of methods that read a graph: which statements are in an edit's subgraph.

    `wikidata_cache.SubgraphOptions` explains each. With ``direction="both"`` incoming statements count among the
    ``per_node``; a reader that only follows edges forwards, like GLAME's R-GNN, does not see them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Policy = Field(
        "uniform", description="which statements of a node are kept: uniform, relation-stratified or inverse-hub"
    )
    direction: Direction = Field(
        "out", description="which statements lead to further nodes: outgoing ones (out), or incoming ones too (both)"
    )
    leakage: LeakageSettings = Field(
        LeakageSettings(), description="statements to leave out because they contain a test's answer"
    )
    require: bool = Field(
        False,
        description="refuse an edit if the graph states nothing about o*; false: make it from s -r-> o* alone",
    )

    rules: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="file of `wikidata-cache rules`: read only what follows from the edit by a rule",
    )

    values: bool = Field(False, description="read dates and quantities too, such as a date of birth or a population")

    def options(self, *, hops: int, per_node: int, seed: int) -> SubgraphOptions:
        """Return the options of a subgraph with these settings."""
        return SubgraphOptions(
            hops=hops,
            per_node=per_node,
            seed=seed,
            policy=self.policy,
            direction=self.direction,
            leakage=Leakage(self.leakage.answers, self.leakage.drop_old_edge),
            rules=self._read_rules(),
            values=self.values,
        )

    def _read_rules(self) -> Rules | None:
        if self.rules is None:
            return None
        try:
            return read_rules(self.rules)
        except BadOptionError as error:
            raise ConfigError(f"graph.rules: {error}") from None


SAMPLING = frozenset(("hops", "per_node", "seed"))
"""The options that every source is given; a source without sampling leaves them unread."""


def edit_subgraph(source: SubgraphSource, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
    """Return the edit's subgraph. If the edit has no relation, the words of its prompt are the label of its edge."""
    with_relation = edit.model_copy(update={"relation": edit.relation_text or None})
    return read_subgraph(source, with_relation, options)


def supported(source: SubgraphSource) -> frozenset[str]:
    """Return the names of the options that a source reads."""
    if isinstance(source, ConfigurableSource):
        return source.supports
    return frozenset()


def read_subgraph(source: SubgraphSource, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
    """Return the source's subgraph of an edit."""
    supports = supported(source)
    unsupported = sorted(set(options.changed()) - supports - SAMPLING)
    if unsupported:
        names = ", ".join(sorted(supports)) or "no setting"
        raise ConfigError(
            f"this graph does not support the setting graph.{unsupported[0]}: {type(source).__name__} supports "
            f"{names}. Leave the setting out, or give a Wikidata graph"
        )
    if isinstance(source, ConfigurableSource):
        return source.subgraph(edit, options)
    return source.subgraph(edit)


def edge_alone(source: SubgraphSource, edit: Edit) -> nx.MultiDiGraph:
    """Return the subgraph of an edit whose o* is not in the graph ``source``: its own edge s -r-> o*."""
    subject = edit.subject_id or "_:subject"
    target = edit.target_new_id or "_:target_new"
    content = [(subject, edit.subject), edit.relation_text, (target, edit.target_new)]
    subgraph = nx.MultiDiGraph(kind="edge alone", right=graph_identity(source), content_hash=digest(content))
    subgraph.add_node(subject, label=edit.subject, role="subject", hop=0)
    if target != subject:
        subgraph.add_node(target, label=edit.target_new, role="target_new", hop=1)
    subgraph.add_edge(subject, target, key=edit.relation_id or "edit", label=edit.relation_text, role="edit")
    return subgraph


def has_statements(graph: nx.MultiDiGraph) -> bool:
    """Return whether an edit's subgraph has more than the edit's own edge."""
    return bool(graph.number_of_edges() > 1)


def other_label(graph: nx.MultiDiGraph, edit: Edit) -> str | None:
    """Return the label of ``target_new_id`` in the subgraph; None if it is ``target_new`` with more or fewer words."""
    item = edit.target_new_id or ""
    node = graph.graph.get("redirects", {}).get(item, item)
    if node not in graph:
        return None
    label = str(graph.nodes[node]["label"])
    words_of_label = set(name_words(normalise(label)))
    words_of_target = set(name_words(normalise(edit.target_new)))
    if words_of_label <= words_of_target or words_of_target <= words_of_label:
        return None
    return label


def say_what_is_missing(graph: nx.MultiDiGraph, edit: Edit, settings: SubgraphSettings) -> str:
    """Return why an edit's subgraph has only its own edge: o* has no statements, or no rule reads them."""
    unread = graph.graph.get("dropped", {}).get("no_rule")
    if unread:
        about = f"the graph has {unread} statements of o* ({edit.target_new})"
        return f"no rule of {settings.rules} adds a fact to it; {about}"
    return f"the graph has no statement of o* ({edit.target_new})"


def check_graph(graph: nx.MultiDiGraph) -> None:
    """Check everything that `encode_subgraph` needs; this takes no model."""
    if not isinstance(graph, nx.MultiDiGraph):
        raise GraphError(f"found {describe(graph)} as a subgraph; expected a networkx.MultiDiGraph")
    odd = [key for key in graph if not isinstance(key, str)]
    if odd:
        raise GraphError(f"the subgraph has {describe(odd[0])} as the key of a node; write the keys as text: str(key)")
    subject_of(graph)
    if not graph.number_of_edges():
        raise GraphError("the subgraph has no edge; expected at least the edit's own edge (s, r, o*)")
    for key, data in graph.nodes(data=True):
        _check_label(data, f"node {key} has no label; give it one, or leave it out of the graph")
    for subject, target, data in graph.edges(data=True):
        complaint = f"edge {subject} -> {target} has no label; give it one, or leave it out of the graph"
        if data.get("role") == "edit":
            complaint = (
                "the edit has no relation, and its prompt only has the subject; give relation, such as 'capital'"
            )
        _check_label(data, complaint)


def subject_of(graph: nx.MultiDiGraph) -> str:
    """Return the key of the node with the role of the subject."""
    subjects = [key for key, data in graph.nodes(data=True) if data.get("role") == "subject"]
    if len(subjects) != 1:
        raise GraphError(f"one node needs role='subject', found {len(subjects)}: {subjects[:5]}")
    return str(subjects[0])


def _check_label(data: dict[str, Any], complaint: str) -> None:
    """Check that a node or an edge has a label that is a text with words."""
    label = data.get("label")
    if not isinstance(label, str) or not label.strip():
        raise GraphError(complaint)
