"""Gated retrieval: facts about popular subjects are withheld; can't count popularity in a or read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.graphs.controls import NoGraph
from kg_edit.graphs.source import as_source
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.zoo.in_context.popularity import (
    PopularityConfig,
    PopularityRetrieval,
    best_threshold,
    popularity_in,
    read_popularity,
    statements,
)
from tests.kg_edit.on_tiny import of_kind, on_tiny
from tests.kg_edit.tiny import tiny
from wikidata_cache.subgraphs.options import SubgraphOptions

FAMOUS = Edit(
    id="1", subject="LeBron James", prompt="{} plays for", target_new="Miami", subject_id="Q1", relation="team"
)
UNKNOWN = Edit(id="2", subject="George Rankin", prompt="The job of {} is", target_new="poet", relation_id="P106")


def graph() -> nx.MultiDiGraph:
    """Three statements about one player, one about the other; a name that two nodes share."""
    players = nx.MultiDiGraph()
    players.add_node("Q1", label="LeBron James")
    players.add_node("Q2", label="George Rankin")
    for target in ("a", "b", "c"):
        players.add_edge("Q1", target, label="knows")
    players.add_edge("Q2", "a", label="knows")
    players.add_node("Q3", label="Twin")
    players.add_node("Q4", label="Twin")
    players.add_edge("Q3", "a", label="knows")
    return players


def patch(*edits: Edit, graph: Any = None, **settings: Any) -> PromptPatch:
    return of_kind(PromptPatch, on_tiny(PopularityRetrieval, graph=graph, **settings).edit(edits))


def test_facts_are_inserted_up_to_the_limit() -> None:
    prompt_patch = patch(FAMOUS, UNKNOWN, graph=graph(), limit=2)
    assert prompt_patch.prompt_transform("LeBron James plays for") == "LeBron James plays for"
    assert prompt_patch.prompt_transform("The job of George Rankin is") == (
        "The job of George Rankin is poet.\nThe job of George Rankin is"
    )
    assert [(record["popularity"], record["withheld"]) for record in prompt_patch.edits] == [(3.0, True), (1.0, False)]
    assert patch(FAMOUS, graph=graph(), limit=3).prompt_transform("LeBron James") != "LeBron James", "up to, and with"


def test_files_are_read_once_not_for_every_call(tmp_path: Path) -> None:
    file = tmp_path / "popularity.json"
    file.write_text(json.dumps({"LeBron James": 3}), encoding="utf-8")
    settings = {"popularity": str(file)}
    method = PopularityRetrieval(tiny("llama"), PopularityConfig.preset("default", settings))
    first = method.edit([FAMOUS])
    file.unlink()
    assert method.edit([FAMOUS]).edits == first.edits


def test_limits_of_a_relation_go_before_the_limit() -> None:
    prompt_patch = patch(FAMOUS, UNKNOWN, graph=graph(), limit=2, limits={"team": 5, "P106": 0})
    assert [(record["limit"], record["withheld"]) for record in prompt_patch.edits] == [(5.0, False), (0.0, True)]


def test_statements_are_counted_by_id_or_an_unambiguous_label() -> None:
    source = as_source(graph())
    twin = FAMOUS.model_copy(update={"subject": "Twin", "subject_id": None})
    assert [statements(source, edit) for edit in (FAMOUS, UNKNOWN, twin)] == [3, 1, 0]
    assert statements(source, FAMOUS.model_copy(update={"subject_id": "Q99"})) == 3, "not there: by its label"
    assert statements(NoGraph(source), FAMOUS) == 3, "a control changes what is said about o*, not about s"


def test_subject_is_found_by_the_label_that_its_subgraph_has() -> None:
    named = graph()
    named.add_edge(7, "Lakers", label="plays for")
    named.nodes[7]["name"] = "Wilt"
    source = as_source(named)
    other = UNKNOWN.model_copy(update={"subject": "Wilt", "subject_id": None})
    assert statements(source, other) == 1, "the label may be in the attribute name"


class Cache:
    """As much of a `WikidataCache` as is asked."""

    def neighbourhood(self, entity: str, options: SubgraphOptions) -> nx.MultiDiGraph:
        subgraph = nx.MultiDiGraph()
        subgraph.add_edges_from([(entity, target) for target in range(7)])
        return subgraph

    def find(self, label: str) -> tuple[str, ...]:
        return ("Q2", "Q3") if label == "George Rankin" else ()

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        raise AssertionError


def test_statements_are_counted_in_wikidata() -> None:
    assert statements(Cache(), FAMOUS) == 7
    assert statements(Cache(), UNKNOWN) == 0, "two of that name"

    class Blind:
        subgraph = Cache.subgraph

    with pytest.raises(ConfigError, match="can't count popularity in a"):
        statements(Blind(), FAMOUS)


@pytest.mark.parametrize(
    "content",
    [
        {"LeBron James": 5000, "george rankin": 7},
        {"Q1": 5000},
        [{"subj": "LeBron James", "s_pop": 5000, "obj": "x"}],
        [{"subj": "L. James", "s_uri": "http://www.wikidata.org/entity/Q1", "s_pop": 5000}],
        {"name": "popqa", "dev": [], "test": [{"input": "What sport does LeBron James play?", "s_pop": 5000}]},
    ],
)
def test_popularity_is_read_from_a_file(content: object, tmp_path: Path) -> None:
    path = tmp_path / "popularity.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    prompt_patch = patch(FAMOUS, UNKNOWN, popularity=str(path))
    assert [record["withheld"] for record in prompt_patch.edits] == [True, False]


def test_subjects_of_one_name_have_their_own_popularity(tmp_path: Path) -> None:
    """PopQA's rows: the genre is asked of one The Circle, the director of another."""
    path = tmp_path / "popularity.json"
    questions = {"What genre is The Circle?": 1244, "Who was the director of The Circle?": 498}
    path.write_text(json.dumps([{"input": question, "s_pop": number} for question, number in questions.items()]))
    table = read_popularity(path)
    for prompt, number in (("What genre is {}?", 1244), ("Who was the director of {}?", 498), ("{} is", None)):
        edit = Edit(id="1", subject="The Circle", prompt=prompt, target_new="drama")
        assert popularity_in(table, edit) == number


def test_best_threshold_answers_most_questions() -> None:
    """Alone the model is right about the two popular ones, with the fact about the two others and the most popular."""
    popularity = [1, 5, 50, 500]
    assert best_threshold(popularity, [False, False, True, True], [True, True, False, True]) == 5
    assert best_threshold(popularity, [True] * 4, [False] * 4) == -1, (
        "nothing is looked up, also for an unknown subject (0)"
    )
    assert best_threshold(popularity, [False] * 4, [True] * 4) == 500
    assert best_threshold([5, 5], [True, False], [False, True]) == -1, "equals can't be told apart"
    assert best_threshold([], [], []) == -1
