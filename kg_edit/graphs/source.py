"""Where an edit's subgraph comes from: Wikidata, or your own knowledge graph (`kg_edit.graphs.private`).

`SubgraphSettings` are the settings ``graph.*`` of all methods that read a graph; `edit_subgraph` reads the subgraph of
an edit from any source, and `check_graph` checks what all methods require of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from operator import not_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import networkx as nx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, GraphError, KgEditError, MissingObjectError
from kg_edit.graphs.private import PrivateGraph, has_names, read_facts
from kg_edit.storage.packaged import packaged_graph
from kg_edit.storage.run_folder import digest
from wikidata_cache.errors import AmbiguousLabelError, EntityNotInGraphError, UnknownLabelError
from wikidata_cache.subgraphs.options import DEFAULTS, Direction, Leakage, SubgraphOptions
from wikidata_cache.subgraphs.sampling import Policy

if TYPE_CHECKING:
    from wikidata_cache import WikidataCache

log = logging.getLogger(__name__)

# Errors of one edit. An unreachable graph is none of these: it ends the run, which can be resumed.
FAILURES = (KgEditError, EntityNotInGraphError, UnknownLabelError, AmbiguousLabelError)
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

    Raises:
        GraphError: a file of facts has a wrong row, or is given together with a graph of Wikidata's ids.
        WikidataCacheError: the graph can't be opened.
    """
    from wikidata_cache import WikidataCache

    parts = [names] if isinstance(names, str | Path) else list(names)
    paths = [Path(os.path.expanduser(part)) for part in parts]  # noqa: PTH111 - unlike Path's, it never raises
    if own := [path for path in paths if has_names(path)]:
        if len(own) < len(paths):
            raise GraphError(
                f"{own[0]} has names, so it can't be combined with a graph of Wikidata's ids; give one kind"
            )
        return read_facts(own)
    known = [packaged_graph(str(part)) or part for part in parts]
    return WikidataCache(known[0] if len(known) == 1 else known, contact=contact)


def as_source(graph: SubgraphSource | nx.DiGraph) -> SubgraphSource:
    """Return ``graph``; a networkx graph is wrapped in a `PrivateGraph`.

    Raises:
        GraphError: a networkx graph is undirected, or an edge has no relation.
    """
    if not isinstance(graph, nx.Graph):
        return graph
    made = PrivateGraph(graph)
    log.info("the networkx graph: read %d statements, 0 skipped", graph.number_of_edges())
    return made


def graph_identity(graph: SubgraphSource) -> dict[str, Any]:
    """Return the graph's files and hashes, or its URL, without the time at which it was asked."""
    source: Any = getattr(graph, "source", graph)
    found = source.provenance() if hasattr(source, "provenance") else {"kind": type(source).__name__}
    return {key: value for key, value in found.items() if key != "fetched_at"}


class LeakageSettings(BaseModel):
    """The settings ``graph.leakage.*``: statements to leave out because they contain a test's answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: tuple[str, ...] = Field((), description="ids or labels; statements from or to them are left out")
    drop_old_edge: bool = Field(True, description="leave out the replaced fact s -r-> o")

    @field_validator("answers")
    @classmethod
    def _named(cls, answers: tuple[str, ...]) -> tuple[str, ...]:
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
        exclude_if=not_,  # so that a run and a patch from before this setting have the same settings
        description="refuse an edit if the graph states nothing about o*; false: make it from s -r-> o* alone",
    )

    def options(self, *, hops: int, per_node: int, seed: int) -> SubgraphOptions:
        """Return the options of a subgraph with these settings."""
        return SubgraphOptions(
            hops=hops,
            per_node=per_node,
            seed=seed,
            policy=self.policy,
            direction=self.direction,
            leakage=Leakage(self.leakage.answers, self.leakage.drop_old_edge),
        )


SAMPLING = frozenset(("hops", "per_node", "seed"))
"""The options that every source is given; a source without sampling leaves them unread."""


def edit_subgraph(
    source: SubgraphSource, edit: Edit, options: SubgraphOptions, *, exclude: Sequence[str] = ()
) -> nx.MultiDiGraph:
    """Return the edit's subgraph. If the edit has no relation, the words of its prompt are the label of its edge.

    Args:
        source: the graph.
        edit: the fact (s, r, o*).
        options: what the subgraph contains.
        exclude: answers that no statement may lead to or from, if the source supports ``leakage``.

    Raises:
        ConfigError: ``source`` does not support one of the options.
        KgEditError, WikidataCacheError: o* is not in the graph.
    """
    named = edit.model_copy(update={"relation": edit.relation_text or None})
    if exclude and "leakage" in supported(source):
        options = replace(options, leakage=options.leakage.also(exclude))
    return read_subgraph(source, named, options)


def supported(source: SubgraphSource) -> frozenset[str]:
    """Return the names of the options that a source reads."""
    return source.supports if isinstance(source, ConfigurableSource) else frozenset()


def read_subgraph(source: SubgraphSource, edit: Edit, options: SubgraphOptions) -> nx.MultiDiGraph:
    """Return the source's subgraph of an edit.

    Raises:
        ConfigError: an option differs from its default, and the source does not support it.
    """
    known = supported(source)
    if other := sorted(set(options.changed()) - known - SAMPLING):
        raise ConfigError(
            f"this graph does not support the setting graph.{other[0]}: {type(source).__name__} supports "
            f"{', '.join(sorted(known)) or 'no setting'}. Leave the setting out, or give a Wikidata graph"
        )
    return source.subgraph(edit, options) if isinstance(source, ConfigurableSource) else source.subgraph(edit)


def edge_alone(source: SubgraphSource, edit: Edit) -> nx.MultiDiGraph:
    """Return the subgraph of an edit whose o* is not in the graph ``source``: its own edge s -r-> o*."""
    subject, target = edit.subject_id or "_:subject", edit.target_new_id or "_:target_new"
    content = [(subject, edit.subject), edit.relation_text, (target, edit.target_new)]
    made = nx.MultiDiGraph(kind="edge alone", right=graph_identity(source), content_hash=digest(content))
    made.add_node(subject, label=edit.subject, role="subject", hop=0)
    made.add_node(target, label=edit.target_new, role="target_new", hop=1)
    made.add_edge(subject, target, key=edit.relation_id or "edit", label=edit.relation_text, role="edit")
    return made


def has_statements(graph: nx.MultiDiGraph) -> bool:
    """Return whether an edit's subgraph has more than the edit's own edge."""
    return bool(graph.number_of_edges() > 1)


def check_graph(graph: nx.MultiDiGraph) -> None:
    """Check everything that `encode_subgraph` needs; this takes no model.

    Raises:
        GraphError: not exactly one node has the role of the subject, a node or an edge has no label, or there is no
            edge.
    """
    subject_of(graph)
    if not graph.number_of_edges():
        raise GraphError("the subgraph has no edge; expected at least the edit's own edge (s, r, o*)")
    for key, data in graph.nodes(data=True):
        _check_label(data, f"node {key} has no label; give it one, or leave it out of the graph")
    for subject, target, data in graph.edges(data=True):
        own = "the edit has no relation, and its prompt only has the subject; give relation, such as 'capital'"
        other = f"edge {subject} -> {target} has no label; give it one, or leave it out of the graph"
        _check_label(data, own if data.get("role") == "edit" else other)


def subject_of(graph: nx.MultiDiGraph) -> str:
    """Return the key of the node with the role of the subject.

    Raises:
        GraphError: there is no such node, or several.
    """
    subjects = [key for key, data in graph.nodes(data=True) if data.get("role") == "subject"]
    if len(subjects) != 1:
        raise GraphError(f"one node needs role='subject', found {len(subjects)}: {subjects[:5]}")
    return str(subjects[0])


def _check_label(data: dict[str, Any], complaint: str) -> None:
    label = data.get("label")
    if not isinstance(label, str) or not label.strip():
        raise GraphError(complaint)
