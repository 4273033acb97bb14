"""What follows from an edit, in sentences: which statements are taken, how they are worded, what is left out."""

from __future__ import annotations

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.methods.composed_facts import (
    ComposedFact,
    composed_fact,
    edit_as_fact,
    edited_noun,
    gives_away,
    objects_of,
    ripples,
)
from kg_edit.methods.glame_plus.teacher import TeacherQuestion
from kg_edit.scoring.questions import format_question, format_question_with_shots
from kg_edit.text.fact_words import fact_words
from kg_edit.text.relation_nouns import asked_nouns

WORDINGS = fact_words("en").wordings
EDIT = Edit(
    id="1",
    subject="Fiat Uno",
    prompt="{}, produced by",
    relation="manufacturer",
    relation_id="P176",
    target_new="Toyota",
)
ANY = EDIT.model_copy(update={"relation_id": None})  # nothing is known of what its objects have


def graph(*statements: tuple[str, str]) -> nx.MultiDiGraph:
    """Toyota's (property, object) statements."""
    subgraph = nx.MultiDiGraph()
    subgraph.add_node("s", label="Fiat Uno", role="subject")
    subgraph.add_node("Q53268", label="Toyota", role="target_new")
    subgraph.add_edge("s", "Q53268", key="P176", label="manufacturer", role="edit", property="P176")
    for property_, label in statements:
        subgraph.add_node(label, label=label)
        subgraph.add_edge("Q53268", label, key=property_, property=property_, label=property_)
    return subgraph


def facts_of(
    *statements: tuple[str, str], limit: int = 9, per_relation: int = 2, exclude: tuple[str, ...] = (), edit: Edit = ANY
) -> list[tuple[str, str]]:
    objects = objects_of(edit, graph(*statements), exclude=exclude)
    return [(fact.noun, fact.target) for fact in ripples(edit, objects, limit=limit, per_relation=per_relation)]


def test_only_relations_that_such_objects_have_are_used() -> None:
    statements = (("P463", "United Nations"), ("P17", "Japan"), ("P159", "Toyota City"), ("P31", "business"))
    assert set(facts_of(*statements, edit=EDIT)) == {("country", "Japan"), ("headquarters", "Toyota City")}
    assert [noun for noun, _ in facts_of(*statements, edit=EDIT)] == [
        noun for noun in asked_nouns("P176") if noun in ("country", "headquarters")
    ]
    assert ("kind", "business") not in facts_of(*statements)


def test_every_relation_with_a_noun_follows_the_usual_ones() -> None:
    statements = (("P452", "automotive industry"), ("P159", "Toyota City"), ("P17", "Japan"), ("P31", "business"))
    usual = objects_of(EDIT, graph(*statements), exclude=())
    every = objects_of(EDIT, graph(*statements), exclude=(), every_relation=True)
    assert [*every] == [*usual, "industry"] and "kind" not in every


def test_facts_are_in_the_order_of_the_relation_table() -> None:
    statements = (("P452", "automotive industry"), ("P421", "UTC+09:00"), ("P17", "Japan"), ("P112", "Kiichiro Toyoda"))
    expected = [("country", "Japan"), ("founder", "Kiichiro Toyoda"), ("industry", "automotive industry")]
    assert facts_of(*statements) == expected
    assert facts_of(*reversed(statements)) == expected, "the graph's order must not matter"
    assert facts_of(*statements, limit=2) == expected[:2]


def test_number_of_objects_of_a_relation_is_limited() -> None:
    founders = (("P112", "A. Toyoda"), ("P112", "B. Toyoda"), ("P112", "C. Toyoda"))
    assert facts_of(*founders, per_relation=2) == [("founder", "A. Toyoda"), ("founder", "B. Toyoda")]


def test_properties_with_one_noun_are_one_relation() -> None:
    assert facts_of(("P17", "Japan"), ("P1376", "Japan"), ("P1376", "Honshu"), per_relation=2) == [
        ("country", "Honshu"),
        ("country", "Japan"),
    ]


@pytest.mark.parametrize("answer", ["Aichi, Japan", "japan", "The Empire of Japan"])
def test_object_that_shares_a_word_with_an_answer_is_left_out(answer: str) -> None:
    assert facts_of(("P17", "Japan"), ("P159", "Toyota City"), exclude=(answer,)) == [("headquarters", "Toyota City")]


def test_common_words_do_not_count_as_an_answer() -> None:
    assert not gives_away("city of industry", ["the city of Turin"])
    assert gives_away("West Germanic", ["Germanic languages"])


def test_object_without_a_name_or_equal_to_s_or_o_is_left_out() -> None:
    assert facts_of(("P17", "Q17"), ("P527", "Fiat Uno"), ("P159", "Toyota")) == []


def test_prompt_of_a_composed_fact_ends_before_its_object() -> None:
    fact = ComposedFact(hop=f"country of the {edited_noun(EDIT)}", target="Japan")
    assert fact.prompt(WORDINGS[1]) == "Country of the manufacturer of {}:"
    assert all(fact.prompt(wording).count("{}") == 1 for wording in WORDINGS)


def test_graph_of_ones_own_has_labels_instead_of_ids() -> None:
    statements = (("country", "Japan"), ("Headquarters location", "Toyota City"), ("founder", "K. Toyoda"), ("x", "y"))
    expected = [("country", "Japan"), ("founder", "K. Toyoda"), ("headquarters", "Toyota City")]
    assert facts_of(*statements) == expected


@pytest.mark.parametrize(
    ("prompt", "relation", "noun"),
    [
        ("{} is sung by", "singer", "singer"),
        ("{} is moored in", "home port", "home port"),
        ("The capital of {} is", None, "capital"),
        ("{}'s child is", None, "child"),
        ("{} is in the city of", None, None),
        ("{} likes", None, None),
        ("The people of {} speak", None, None),
        ("{} plays for", "member of sports team", "team"),
    ],
)
def test_relation_without_an_id_is_named_by_its_label_or_words(
    prompt: str, relation: str | None, noun: str | None
) -> None:
    edit = Edit(id="1", subject="s", prompt=prompt, relation=relation, target_new="x")
    assert edited_noun(edit) == noun
    fact = composed_fact(edit, "currency", "yen")
    assert (fact is None) == (noun is None)
    assert (edit_as_fact(edit) is None) == (noun is None)


def test_wordings_differ_from_those_of_the_scores() -> None:
    scored = format_question("What is the country of X?") + format_question_with_shots("What is the country of X?")
    for text in (*WORDINGS, *TeacherQuestion(noun="country", of="X").as_question.longest_first):
        assert "Question:" not in text and "Answer:" not in text
    assert "Question:" in scored and "Answer:" in scored, "else the test compares with nothing"
