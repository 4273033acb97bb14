"""Adaptive retrieval (Mallen et al., ACL 2023, arXiv 2212.10511): a text in the prompt for unpopular subjects only.

The text is the edit's own fact, or the paragraph of a file that BM25 finds for the edit's prompt (`passages`).
The popularity comes from a file (`read_popularity`), or it is the number of statements that a graph has about the
subject (`statements`). `fitted_limits` fits the limits on separate questions, one limit for each relation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import networkx as nx
from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, EditFileError, describe
from kg_edit.evaluation.datasets import popqa
from kg_edit.evaluation.datasets.reading import read_document
from kg_edit.graphs.controls import Control
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.graph_reader import GraphMethod
from kg_edit.patches.prompt_patch import PromptFact
from kg_edit.scoring.questions import fact_sentence
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.in_context.base import PromptConfig, PromptMethod
from kg_edit.zoo.in_context.passages import Passages, read_passages
from wikidata_cache.subgraphs.options import SubgraphOptions

_MOST_STATEMENTS = 10_000  # about one subject, that are counted


class PopularityConfig(PromptConfig):
    """Settings: the source of the popularity, and the limit up to which a fact is put into the prompt."""

    popularity: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="JSON file: numbers by name or id, or PopQA's rows (s_pop); unset: count statements in the graph",
    )
    limit: float = Field(100.0, ge=0, description="highest popularity of a subject whose fact is put before the prompt")
    limits: dict[str, float] = Field(
        default_factory=dict, description="other limits for single relations, by property id or label"
    )
    passages: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="JSON file of paragraphs: the best one by BM25 is inserted; unset: the edit's own fact is",
    )


class PopularityRetrieval(GraphMethod, PromptMethod):
    """Puts the fact into the prompt only if the subject is so unpopular that the model alone can't be trusted.

    A withheld fact has no effect: about a popular subject the model answers as before. The limits should be chosen for
    each relation on separate questions (`studies/popqa.py` does it).
    """

    entry = method_entry("popularity-retrieval")
    takes_graph = True
    config_class = PopularityConfig
    config: PopularityConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that there is a source of popularity."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, PopularityConfig)  # noqa: S101 - config_class
        if config.passages:
            read_passages(config.passages)
        if config.popularity:
            read_popularity(config.popularity)
        elif graph is None:
            raise ConfigError(
                f"the method {cls.name} needs to know how popular a subject is; give graph=... (CLI: --graph), or a "
                "file of popularities (CLI: --set popularity=FILE)"
            )

    @property
    def reads_graph(self) -> bool:
        """Whether popularity is counted in the graph, which is the case if no file of popularities is given."""
        return self.config.popularity is None

    @cached_property
    def _table(self) -> Mapping[str, float] | None:
        if self.config.popularity:
            return read_popularity(self.config.popularity)
        return None

    @cached_property
    def _passages(self) -> Passages | None:
        if self.config.passages:
            return Passages(read_passages(self.config.passages))
        return None

    def fact(self, edit: Edit) -> tuple[PromptFact, dict[str, Any]]:
        """Return the fact as a sentence, or the paragraph that BM25 finds; withheld if the subject is popular."""
        if self._table is not None:
            popularity = popularity_in(self._table, edit) or 0.0
        else:
            assert self.graph is not None  # noqa: S101 - `check_inputs`
            popularity = statements(self.graph, edit)
        limit = self._limit(edit)
        if self._passages:
            text = self._passages.best(edit.text)
        else:
            text = fact_sentence(edit)
        withheld = popularity > limit or text is None
        fact = PromptFact(id=edit.id, subject=edit.subject, prompt=edit.text, text=text or "", withheld=withheld)
        return fact, {"popularity": popularity, "limit": limit, "withheld": withheld}

    def _limit(self, edit: Edit) -> float:
        """Return the limit of the edit's relation, given by its id or its label, or else that of all relations."""
        for name in (edit.relation_id or "", edit.relation_text):
            if name in self.config.limits:
                return self.config.limits[name]
        return self.config.limit


def popularity_in(table: Mapping[str, float], edit: Edit) -> float | None:
    """Return the popularity of an edit's subject in a table of `read_popularity`: by its id, question, or name."""
    for name in (edit.subject_id or "", edit.text, edit.subject):
        if name.casefold() in table:
            return table[name.casefold()]
    return None


def read_popularity(path: str | Path) -> Mapping[str, float]:
    """Read the popularities by subject, and for PopQA's rows also by question and Wikidata id, all in lower case.

    The file is a JSON object from names or ids to numbers, or PopQA's rows, in either form, with ``s_pop``. A name that
    has several numbers (in PopQA, two subjects of the same name) is left out.
    """
    path = Path(path)
    content = read_document(path)
    if isinstance(content, dict) and not isinstance(content.get("dev"), list):
        pairs = list(content.items())
    else:
        pairs = _read_popqa_pairs(content)
    expected = '{"LeBron James": 190000, …} or rows with subj and s_pop'
    numbers = defaultdict[str, set[float]](set)  # by name
    for name, value in pairs:
        if value is None:  # it is not known
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise EditFileError(f"{path}: found {describe(value)} as the popularity of {name!r}; expected {expected}")
        numbers[name.casefold()].add(float(value))
    if not numbers:
        raise EditFileError(f"{path}: found no popularities; expected {expected}")
    return {name: values.pop() for name, values in numbers.items() if len(values) == 1}


def _read_popqa_pairs(content: object) -> list[tuple[str, object]]:
    """Return the popularity of each of PopQA's rows, by its subject, its question, and its subject's Wikidata id."""
    pairs = list[tuple[str, object]]()
    for row in popqa.rows(content):
        if not isinstance(row, dict):
            continue
        question = str(row.get("input") or row.get("question") or "")
        subject = row.get("subj")
        parsed = popqa.asked_about(question)
        if not subject and parsed:
            _, subject = parsed
        _, _, subject_id = str(row.get("s_uri") or "").rpartition("/")
        for name in (subject, question, subject_id):
            if name:
                pairs.append((str(name), row.get("s_pop")))
    return pairs


@runtime_checkable
class Neighbourhoods(Protocol):
    """A graph that can be asked for the statements about one item, such as `wikidata_cache.WikidataCache`."""

    def neighbourhood(self, entity: str, options: SubgraphOptions) -> nx.MultiDiGraph:
        """Return at most ``options.per_node`` statements about the item ``entity``, as edges."""

    def find(self, label: str) -> tuple[str, ...]:
        """Return the ids of all entities with this label."""


def statements(graph: SubgraphSource, edit: Edit) -> float:
    """Return the number of statements in a graph about the edit's subject; 0 if the subject is unknown or ambiguous.

    A control changes the graph's statements about o*; the subject is counted in the graph before that change.
    """
    if isinstance(graph, Control):
        return statements(graph.right, edit)
    if isinstance(graph, PrivateGraph):
        return _count_in_private_graph(graph, edit)
    if isinstance(graph, Neighbourhoods):
        return _count_in_neighbourhood(graph, edit)
    raise ConfigError(
        f"can't count popularity in a {type(graph).__name__}; "
        "give a networkx graph, a WikidataCache, or a file of popularities"
    )


def _count_in_private_graph(graph: PrivateGraph, edit: Edit) -> float:
    """Return the number of statements about the subject: the edges that begin at its node, found by id or by name."""
    nodes: Sequence[Hashable]
    if edit.subject_id in graph.graph:
        nodes = (edit.subject_id,)
    else:
        nodes = graph.find(edit.subject)
    if len(nodes) != 1:
        return 0.0
    return float(graph.graph.out_degree(nodes[0]))


def _count_in_neighbourhood(graph: Neighbourhoods, edit: Edit) -> float:
    """Return the number of statements about the subject: the edges around its item, found by id or by label."""
    items: Sequence[str]
    if edit.subject_id:
        items = (edit.subject_id,)
    else:
        items = graph.find(edit.subject)
    if len(items) != 1:
        return 0.0
    neighbourhood = graph.neighbourhood(items[0], SubgraphOptions(hops=1, per_node=_MOST_STATEMENTS))
    return float(neighbourhood.number_of_edges())


def best_threshold(popularity: Sequence[float], without: Sequence[bool], retrieved: Sequence[bool]) -> float:
    """Return the popularity limit with which most questions are answered correctly.

    Facts are used up to this limit. Call it for each relation separately, on questions that are not used for testing.
    (The paper uses log popularity, which has the same order.)

    Args:
        popularity: of each question's subject.
        without: whether the model answers each question correctly alone.
        retrieved: whether it does with the fact.

    Returns:
        Of equally good limits the lowest; -1 if no fact should be used (an unknown subject has popularity 0).
    """
    # The limit moves up from below all questions. The questions that it passes are answered with the fact instead of
    # without, all of one popularity at once.
    gains = defaultdict[float, int](int)  # by popularity
    for value, alone, with_fact in zip(popularity, without, retrieved, strict=True):
        gains[value] += with_fact - alone
    best = -1.0
    most = 0
    gain = 0  # questions that are answered correctly beyond those without any fact
    for value in sorted(gains):
        gain += gains[value]
        if gain > most:
            best = value
            most = gain
    return best


class Asked(NamedTuple):
    """A question that was asked twice, and whether the answers were right: the model alone, and with a text before."""

    relation: str
    popularity: float
    alone: bool
    with_text: bool


def fitted_limits(questions: Iterable[Asked]) -> dict[str, float]:
    """Return the best limit of each relation (`best_threshold`), for `PopularityConfig.limits`."""
    by_relation: dict[str, list[Asked]] = defaultdict(list)
    for question in questions:
        by_relation[question.relation].append(question)
    limits = dict[str, float]()
    for relation, rows in by_relation.items():
        limits[relation] = best_threshold(
            popularity=[row.popularity for row in rows],
            without=[row.alone for row in rows],
            retrieved=[row.with_text for row in rows],
        )
    return limits
