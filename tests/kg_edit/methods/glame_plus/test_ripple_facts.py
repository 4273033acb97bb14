"""What follows from an edit, in sentences: which statements are taken, how they are worded, what is left out."""

from __future__ import annotations

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.methods.glame_plus.questions import (
    WORDINGS,
    ComposedFact,
    first_hop,
    gives_away,
    objects_of,
    ripples,
)
from kg_edit.methods.glame_plus.teacher import TeacherQuestion
from kg_edit.scoring.questions import format_question, format_question_with_shots
from kg_edit.text.relation_nouns import asked_nouns, relation_nouns

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
    made = nx.MultiDiGraph()
    made.add_node("s", label="Fiat Uno", role="subject")
    made.add_node("Q53268", label="Toyota", role="target_new")
    made.add_edge("s", "Q53268", key="P176", label="manufacturer", role="edit", property="P176")
    for property_, label in statements:
        made.add_node(label, label=label)
        made.add_edge("Q53268", label, key=property_, property=property_, label=property_)
    return made


def found(
    *statements: tuple[str, str], limit: int = 9, a_relation: int = 2, exclude: tuple[str, ...] = (), edit: Edit = ANY
) -> list[tuple[str, str]]:
    objects = objects_of(edit, graph(*statements), exclude=exclude)
    return [(fact.noun, fact.target) for fact in ripples(edit, objects, limit=limit, a_relation=a_relation)]


def test_what_such_things_have_is_taken_first_and_nothing_else() -> None:
    statements = (("P463", "United Nations"), ("P17", "Japan"), ("P159", "Toyota City"), ("P31", "business"))
    assert set(found(*statements, edit=EDIT)) == {("country", "Japan"), ("headquarters", "Toyota City")}
    assert [noun for noun, _ in found(*statements, edit=EDIT)] == [
        noun for noun in asked_nouns("P176") if noun in ("country", "headquarters")
    ]
    assert ("kind", "business") not in found(*statements)


def test_what_people_ask_comes_first_and_the_rest_not_at_all() -> None:
    statements = (("P452", "automotive industry"), ("P421", "UTC+09:00"), ("P17", "Japan"), ("P112", "Kiichiro Toyoda"))
    expected = [("country", "Japan"), ("founder", "Kiichiro Toyoda"), ("industry", "automotive industry")]
    assert found(*statements) == expected
    assert found(*reversed(statements)) == expected, "the graph's order must not matter"
    assert found(*statements, limit=2) == expected[:2]


def test_so_many_objects_of_a_relation() -> None:
    founders = (("P112", "A. Toyoda"), ("P112", "B. Toyoda"), ("P112", "C. Toyoda"))
    assert found(*founders, a_relation=2) == [("founder", "A. Toyoda"), ("founder", "B. Toyoda")]


def test_two_properties_with_one_noun_are_one_relation() -> None:
    assert found(("P17", "Japan"), ("P1376", "Japan"), ("P1376", "Honshu"), a_relation=2) == [
        ("country", "Honshu"),
        ("country", "Japan"),
    ]


@pytest.mark.parametrize("answer", ["Aichi, Japan", "japan", "The Empire of Japan"])
def test_an_object_that_shares_a_word_with_the_answer_is_left_out(answer: str) -> None:
    assert found(("P17", "Japan"), ("P159", "Toyota City"), exclude=(answer,)) == [("headquarters", "Toyota City")]


def test_common_words_give_nothing_away() -> None:
    assert not gives_away("city of industry", ["the city of Turin"])
    assert gives_away("West Germanic", ["Germanic languages"])


def test_what_is_nameless_or_an_end_of_the_edit_is_left_out() -> None:
    assert found(("P17", "Q17"), ("P527", "Fiat Uno"), ("P159", "Toyota")) == []


def test_the_composed_sentence_ends_before_its_object() -> None:
    fact = ComposedFact(hop=f"country of the {first_hop(EDIT)}", target="Japan")
    assert fact.prompt(WORDINGS[1]) == "Country of the manufacturer of {}:"
    assert all(fact.prompt(wording).count("{}") == 1 for wording in WORDINGS)


def test_a_relation_outside_the_table_lends_its_words() -> None:
    assert first_hop(Edit(id="1", subject="s", prompt="{} is sung by", relation="singer", target_new="x")) == "singer"
    assert first_hop(Edit(id="1", subject="s", prompt="{} likes", target_new="x")) == "likes"


def test_what_is_asked_of_a_thing_is_what_such_things_have() -> None:
    assert asked_nouns("P27")[:2] == ("continent", "capital")
    assert asked_nouns("P54") == ("sport", "country", "headquarters", "league")
    assert asked_nouns("P99999") == asked_nouns(None) == ()
    assert all(len(set(asked_nouns(id_))) == len(asked_nouns(id_)) for id_ in relation_nouns())


def test_no_wording_is_one_that_scores() -> None:
    scored = format_question("What is the country of X?") + format_question_with_shots("What is the country of X?")
    for text in (*WORDINGS, *TeacherQuestion(noun="country", of="X").question.forms):
        assert "Question:" not in text and "Answer:" not in text
    assert "Question:" in scored and "Answer:" in scored, "else the test compares with nothing"
