"""Where an edit's subgraph comes from: Wikidata, or your own knowledge graph, in networkx or files.

1. `SubgraphSource` is any object that has a subgraph for an edit.
2. `SubgraphSettings` are the settings ``graph.*`` of all methods that read a graph.
3. `open_named` and `as_source` open a graph; `graph_identity` says which one it is.
4. `edit_subgraph` reads the subgraph of an edit from any source; `edge_alone` replaces it where the graph lacks o*.
5. `check_graph` checks what all methods require of a subgraph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import networkx as nx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kg_common.atomic import user_path
from kg_common.json_text import digest
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, GraphError, MissingObjectError, describe
from kg_edit.graphs.fact_files import has_names, read_facts
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.languages import ENGLISH
from kg_edit.storage.packaged import check_graph_name, packaged_graph
from kg_edit.storage.setting_fields import NAMES_A_FILE
from wikidata_cache.errors import (
    BadOptionError,
    EntityNotInGraphError,
    UnknownLabelError,
    WikidataCacheError,
)
from wikidata_cache.labels.label_index import name_words, normalise
from wikidata_cache.subgraphs.options import DEFAULTS, Direction, Leakage, SubgraphOptions
from wikidata_cache.subgraphs.rules import Rules, read_rules
from wikidata_cache.subgraphs.sampling import Policy

if TYPE_CHECKING:
    from wikidata_cache import WikidataCache

ABSENT = (EntityNotInGraphError, UnknownLabelError, MissingObjectError)
"""What `subgraph` of a source raises if the graph lacks the edit's o*."""


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


def open_named(
    names: str | Path | Sequence[str | Path], *, contact: str | None = None, language: str = ENGLISH
) -> WikidataCache | PrivateGraph:
    """Open a graph by its name or names.

    Args:
        names: a packaged graph (extract), one or more files of facts (`read_facts`), or what `WikidataCache` opens:
            files and folders of Wikidata's ids, a store, a URL.
        contact: your e-mail address or URL, which Wikimedia requires.
        language: of the labels of a graph of Wikidata's ids; what has no label in it has another one. Files of facts
            have the names that they have.
    """
    if isinstance(names, str | Path):
        names = [names]
    for name in names:
        check_graph_name(str(name))
    paths = [user_path(name) for name in names]
    try:
        fact_paths = [path for path in paths if has_names(path)]  # whose entities have names, and not ids
        if not fact_paths:
            return _open_wikidata(names, contact, language)
        if len(fact_paths) < len(paths):
            raise GraphError(
                f"{fact_paths[0]} has names, so it can't be combined with a graph of Wikidata's ids; give one kind"
            )
        return _open_facts(fact_paths)
    except WikidataCacheError as error:
        raise GraphError(str(error)) from error


def _open_wikidata(names: Sequence[str | Path], contact: str | None, language: str) -> WikidataCache:
    """Open a graph of Wikidata's ids; the name of a packaged graph stands for its files."""
    from wikidata_cache import WikidataCache  # here, as a private graph does not need it
    from wikidata_cache.languages import language_chain

    languages = language_chain(language)
    sources = [packaged_graph(str(name)) or name for name in names]
    if len(sources) == 1:  # perhaps a store or a URL, which can't be combined with others
        return WikidataCache(sources[0], contact=contact, languages=languages)
    return WikidataCache(sources, contact=contact, languages=languages)


def _open_facts(paths: Sequence[Path]) -> PrivateGraph:
    """Open files of facts whose entities have names."""
    graph, files = read_facts(paths)
    try:
        return PrivateGraph(graph, files)
    except GraphError as error:  # of a GraphML file: tables can't have edges without a direction or a relation
        raise GraphError(f"{paths[0]}: {error}") from None


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
    source: Any = getattr(graph, "source", graph)  # a `WikidataCache` reads a source, which has the files or the URL
    identity = {"kind": type(source).__name__}
    if hasattr(source, "provenance"):
        identity = source.provenance()
    return {key: value for key, value in identity.items() if key != "fetched_at"}


SAMPLING = frozenset(("hops", "per_node", "seed"))
"""The options that every source is given; a source without sampling leaves them unread."""


def edit_subgraph(source: SubgraphSource, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
    """Return the source's subgraph of an edit, and make sure that the edit's own edge has a label, as methods need it.

    If the edit has no relation, the words of its prompt are the label. `read_subgraph` leaves such an edge without one.
    """
    with_relation = edit.model_copy(update={"relation": edit.relation_text or None})
    graph = read_subgraph(source, with_relation, options)
    if edit.language == ENGLISH:
        return graph
    return _with_names_of(edit, graph)


def _with_names_of(edit: Edit, graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Return a subgraph with the names of the edit for s, o and o*, where the source has English labels alone."""
    names = {
        edit.subject_id: edit.subject,
        edit.target_true_id: edit.target_true,
        edit.target_new_id: edit.target_new,
    }
    named = graph.copy()
    for node, name in names.items():  # an entity without an id is None, which is no node
        if node in named and name and _has_default_label(named.nodes[node]):
            named.nodes[node]["label"] = name
    return named


def _has_default_label(node: Mapping[str, Any]) -> bool:
    """Return whether a node has its English label, as the source has none in the language that was asked for.

    Only a node of a subgraph in another language has a ``default_label``, beside its label.
    """
    return bool(node["label"] == node.get("default_label"))


def read_subgraph(source: SubgraphSource, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
    """Return the source's subgraph of an edit; refuse an option that the source does not read."""
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


def supported(source: SubgraphSource) -> frozenset[str]:
    """Return the names of the options that a source reads."""
    if isinstance(source, ConfigurableSource):
        return source.supports
    return frozenset()


def edge_alone(source: SubgraphSource, edit: Edit) -> nx.MultiDiGraph:
    """Return the subgraph of an edit whose o* is not in the graph ``source``: its own edge s -r-> o*."""
    subject = edit.subject_id or "_:subject"
    target = edit.target_new_id or "_:target_new"
    content = [(subject, edit.subject), edit.relation_text, (target, edit.target_new)]
    # As in a control, ``right`` is the graph in whose place this subgraph stands.
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
    """Return the label of ``target_new_id`` in the subgraph; None if it is ``target_new`` with more or fewer words.

    Also None if the source has no label in the language of the edit, and gives an English one in its place.
    """
    item = edit.target_new_id or ""
    redirects = graph.graph.get("redirects", {})  # {merged item: its new item}; only in Wikidata's subgraphs
    node = redirects.get(item, item)
    if node not in graph:
        return None
    label = str(graph.nodes[node]["label"])
    if edit.language != ENGLISH and _has_default_label(graph.nodes[node]):
        return None
    words_of_label = set(name_words(normalise(label)))
    words_of_target = set(name_words(normalise(edit.target_new)))
    if words_of_label <= words_of_target or words_of_target <= words_of_label:
        return None
    return label


def say_what_is_missing(graph: nx.MultiDiGraph, edit: Edit, settings: SubgraphSettings) -> str:
    """Return why an edit's subgraph has only its own edge: o* has no statements, or no rule reads them."""
    dropped = graph.graph.get("dropped", {})  # {why statements were left out: how many}; only in Wikidata's subgraphs
    unread = dropped.get("no_rule")
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
