"""Methods that read a knowledge graph: `GraphMethod` holds one, `GraphReader` reads the subgraph of each edit.

`GraphSettings` says which subgraph an edit gets, and `fetch_subgraph` fetches it. The ``graph`` of a method is the
source of subgraphs, `GraphSettings.graph` has the settings of it, and a ``subgraph`` is that of one edit.

Three functions return answers to the tests of an edit, each for another use:

    asked_answers                  of the edit's own test questions      left out of a subgraph (``exclude_answers``)
    GraphReader.test_answers       also of its record's probes           looked for in a subgraph
    glame_plus excluded_answers    also of the probes, if the graph      not learned (``exclude_answers``)
                                   hides their answers
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError
from kg_edit.graphs.controls import probe_answers, states_nothing
from kg_edit.graphs.encoding import check_labels
from kg_edit.graphs.facts import add_guard, answers_in, target_of, without_answers
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import (
    ABSENT,
    SubgraphSettings,
    SubgraphSource,
    as_source,
    check_graph,
    edge_alone,
    edit_subgraph,
    graph_identity,
    has_statements,
    open_named,
    other_label,
    say_what_is_missing,
)
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import MethodConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.packaged import EXTRACT
from kg_edit.storage.setting_fields import Seed

_MOST_NAMED = 5  # a run names at most so many edits of whose o* the graph states nothing

log = logging.getLogger(__name__)


class GraphSettings(MethodConfig):
    """Settings of methods that read an edit's subgraph."""

    per_node: PositiveInt = Field(20, description="m: number of statements sampled at a node")
    seed: Seed = Field(0, description="random seed of all sampling")
    exclude_answers: bool = Field(
        False,
        description="leave out of the subgraph statements that overlap an answer of the edit's test questions",
    )
    graph: SubgraphSettings = Field(
        SubgraphSettings(),
        description="which statements are in the subgraph: graph.policy, graph.direction, graph.leakage, graph.rules, "
        "graph.values",
    )

    @property
    def subgraph_hops(self) -> int:
        """How many hops from the subject the subgraph has: 2 covers s -> o* and the statements about o*."""
        return 2

    def check_subgraph(self, edit: Edit, subgraph: nx.MultiDiGraph) -> None:
        """Check the ``subgraph`` that `fetch_subgraph` returned for ``edit``."""
        check_graph(subgraph)

    @property
    def guards_answers(self) -> bool:
        """Whether `fetch_subgraph` leaves out the answers of test questions; GLAME-plus leaves them out later."""
        return self.exclude_answers


def fetch_subgraph(source: SubgraphSource, edit: Edit, settings: GraphSettings) -> nx.MultiDiGraph:
    """Ask ``source`` for the edit's subgraph. If the graph does not have o*, it is the edit's own edge alone."""
    answers: tuple[str, ...] = ()
    if settings.guards_answers:
        answers = asked_answers(edit)
    options = settings.graph.options(hops=settings.subgraph_hops, per_node=settings.per_node, seed=settings.seed)
    try:
        # With the guard, other statements are sampled in the place of those that overlap an answer.
        subgraph = edit_subgraph(source, edit, add_guard(source, edit, options, answers))
    except ABSENT:
        if settings.graph.require:
            raise
        subgraph = edge_alone(source, edit)
    if answers:
        subgraph = without_answers(subgraph, answers)  # a source may not have the guard
    if settings.graph.require and not has_statements(subgraph):
        why = say_what_is_missing(subgraph, edit, settings.graph)
        raise GraphError(
            f"{why}; add some, give another graph or table of rules, or leave out graph.require (CLI: --require-graph)"
        )
    return subgraph


def asked_answers(edit: Edit) -> tuple[str, ...]:
    """Return the answers of an edit's test questions (``portability``), with their aliases."""
    names = list[str]()
    for question in edit.portability:
        names += [question.answer, *question.aliases]
    return tuple(dict.fromkeys(names))


class GraphMethod(EditingMethod):
    """A method that reads a graph, or can read one; put it before others in the list of base classes."""

    def __init__(
        self,
        model: LanguageModel,
        config: MethodConfig,
        *,
        graph: SubgraphSource | nx.DiGraph | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, config, graph=graph, **options)
        if graph is not None:
            self.graph = self.source_of(graph)

    @classmethod
    def open_graph(cls, graph: Any) -> Any:
        """Return the graph that `on` was given, opened; without one, the packaged extract, if the method needs one."""
        if graph is None and cls.needs_graph:
            graph = EXTRACT
        if isinstance(graph, str | Path):
            return open_named(graph)
        return graph

    def source_of(self, graph: SubgraphSource | nx.DiGraph) -> SubgraphSource:
        """Return the source of subgraphs for a given ``graph``."""
        return as_source(graph)

    @property
    def reads_graph(self) -> bool:
        """Whether the method reads the given graph; by default, whether it needs one."""
        return self.needs_graph

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """Which graph the method reads: its files and hashes, or its URL without a date. None if it reads no graph."""
        if self.graph is None or not self.reads_graph:
            return None
        return graph_identity(self.graph)


SUBGRAPHS = 1024
"""The number of subgraphs that a method caches: a server makes edits for as long as it runs."""


class GraphReader(GraphMethod):
    """Mixin that gives a method the subgraph of each edit; put it before the method in the list of base classes.

    The subgraph of an edit is fetched from the graph once; the last `SUBGRAPHS` of them are cached.
    """

    needs_graph = True
    config: GraphSettings
    _answers_reported = False  # whether the log has said that a subgraph contains a test's answer

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and ask the graph for every edit's subgraph."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, GraphSettings) and graph is not None  # noqa: S101 - needs_graph
        other_labels = []
        for edit in edits:
            with annotate_errors(edit):
                subgraph = fetch_subgraph(graph, edit, config)
                config.check_subgraph(edit, subgraph)
            label = other_label(subgraph, edit)
            if label:
                other_labels.append(f"edit {edit.id!r}: {edit.target_new_id} is {label!r}, not {edit.target_new!r}")
        if other_labels:
            log.warning(
                "%d of %d edits have a target_new_id with another label in the graph, so their subgraphs may be about "
                "something else: %s",
                len(other_labels),
                len(edits),
                "; ".join(other_labels[:3]),
            )

    @cached_property
    def _subgraphs(self) -> dict[Edit, nx.MultiDiGraph]:
        """The subgraphs that were fetched last, the oldest first."""
        return {}

    @cached_property
    def states_target(self) -> dict[str, bool]:
        """Whether the subgraph of each edit has statements of o*, by the edit's id; empty with `NoGraph`."""
        return {}

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        """Return the edit's subgraph: fetched once, and then logged once if a user should know something about it."""
        if edit in self._subgraphs:
            return self._subgraphs[edit]
        subgraph = self._fetch(edit)
        if len(self._subgraphs) >= SUBGRAPHS:
            oldest = next(iter(self._subgraphs))
            del self._subgraphs[oldest]
        self._subgraphs[edit] = subgraph
        self._report_answers(edit, subgraph)
        self._report_alone(edit, subgraph)
        return subgraph

    def _fetch(self, edit: Edit) -> nx.MultiDiGraph:
        """Ask the graph for the edit's subgraph, and check that the model can read its labels."""
        assert self.graph is not None  # noqa: S101 - needs_graph
        subgraph = fetch_subgraph(self.graph, edit, self.config)
        check_labels(self.model, subgraph)
        return subgraph

    def _report_alone(self, edit: Edit, subgraph: nx.MultiDiGraph) -> None:
        """Note in `states_target` whether the graph states anything of o*; warn of the first edits without."""
        if states_nothing(self.graph):  # each edit reads its own fact alone, by choice
            return
        why = self._explain_alone(edit, subgraph)
        self.states_target[edit.id] = not why
        if not why:
            return
        count = len(edits_alone(self))  # with this one
        if count < _MOST_NAMED:
            log.warning("edit %r: %s", edit.id, why)
        elif count == _MOST_NAMED:
            log.warning("edit %r: %s; further ones are not named", edit.id, why)

    def why_alone(self, edit: Edit) -> str:
        """Return why this method reads s -r-> o* alone, in words; "" if the subgraph has statements of o*."""
        return self._explain_alone(edit, self.subgraph(edit))

    def _explain_alone(self, edit: Edit, subgraph: nx.MultiDiGraph) -> str:
        """Return in words why a subgraph is s -r-> o* alone, with advice; "" if it has statements of o*."""
        if has_statements(subgraph):
            return ""
        missing = say_what_is_missing(subgraph, edit, self.config.graph)
        advice = ""  # begins with its punctuation mark
        if isinstance(self.graph, PrivateGraph):
            advice = self.graph.suggest(edit.target_new)
        elif not edit.target_new_id:
            advice = "; wikidata-cache link finds other spellings"
        return f"{missing}, so {self.name} reads s -r-> o* alone{advice}"

    def find_labels_of_answers(self, edit: Edit, subgraph: nx.MultiDiGraph) -> list[str]:
        """Return the labels in a subgraph that overlap an answer of the edit's test questions or probes."""
        answers = self.test_answers(edit)
        if not answers:
            return []
        return sorted(str(subgraph.nodes[node]["label"]) for node in answers_in(subgraph, answers))

    def test_answers(self, edit: Edit) -> tuple[str, ...]:
        """Return the answers of the edit's test questions, and those of its record's probes.

        `kg-edit evaluate` puts a control around the graph that has the latter (`WithAnswersNamed`, `WithoutAnswers`).
        Other graphs don't know them.
        """
        return (*asked_answers(edit), *probe_answers(self.graph, edit))

    def _report_answers(self, edit: Edit, subgraph: nx.MultiDiGraph) -> None:
        """Log once per run that a subgraph contains answers to a benchmark's test questions.

        Outside a benchmark nothing is logged, as a method is meant to read the facts that follow from an edit.
        """
        if self._answers_reported or self.config.exclude_answers:
            return
        if not probe_answers(self.graph, edit):  # only the graph of a benchmark has some (`test_answers`)
            return
        try:  # an incomplete subgraph has no answers to look up; the code that uses it raises the error
            check_graph(subgraph)
            target_of(subgraph)
        except GraphError:
            return
        labels = self.find_labels_of_answers(edit, subgraph)
        if labels:
            self._answers_reported = True
            named = ", ".join(repr(label) for label in labels[:3])
            log.info(
                "edit %r: the graph that %s reads contains %s, with words of an answer to a test question of this "
                "record; leave such answers out with the setting exclude_answers=true (--set exclude_answers=true)",
                edit.id,
                self.name,
                named,
            )


def subgraph_of(method: EditingMethod, edit: Edit) -> nx.MultiDiGraph | None:
    """Return the subgraph that a method reads for ``edit``; None if it reads no graph."""
    if isinstance(method, GraphReader):
        return method.subgraph(edit)
    return None


def edits_alone(method: EditingMethod) -> list[str]:
    """Return the ids of the edits that a method made from their own fact alone, as the graph states nothing of o*."""
    if not isinstance(method, GraphReader):
        return []
    return [id_ for id_, has_some in method.states_target.items() if not has_some]
