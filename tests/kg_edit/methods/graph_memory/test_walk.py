"""The walk: which statements a question gets, in which order, and where it stops."""

from __future__ import annotations

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.methods.graph_memory.edited_graph import EditedGraph
from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.methods.graph_memory.patch import GraphMemoryPatch
from kg_edit.methods.graph_memory.relation_words import RelationWords
from kg_edit.methods.graph_memory.walk import Walker
from tests.kg_edit.methods.graph_memory.toy import BULGARIA, SONY, graph, memory, things, walked
from tests.kg_edit.tiny import tiny

WALKS = {
    "the edit as a question": ("In which country is Sony?", ["Sony", "Bulgaria"]),
    "the edit's own prompt": (SONY.text, ["Sony", "Bulgaria"]),
    "a second hop": ("What is the currency of the country of Sony?", ["Sony", "Bulgaria", "lev"]),
    "the words in another order": ("Sony is in a country. Which currency has it?", ["Sony", "Bulgaria", "lev"]),
    "a third hop": (
        "Who is the head of government of the capital of the country of Sony?",
        ["Sony", "Bulgaria", "Sofia", "Vassil Terziev"],
    ),
    "a hop that the graph lacks": ("Who is the founder of the country of Sony?", ["Sony", "Bulgaria"]),
    "another relation of s": ("Who is the founder of Sony?", []),
    "a fact of o* alone": ("What is the currency of Bulgaria?", []),
    "nothing that is edited": ("In which country is Toyota?", []),
}


@pytest.mark.parametrize("asked", WALKS)
def test_walk_takes_the_statements_that_a_question_asks_for(asked: str) -> None:
    question, expected = WALKS[asked]
    assert things(walked(memory(SONY), question)) == expected


def test_walk_stops_after_its_steps() -> None:
    question = "Who is the head of government of the capital of the country of Sony?"
    assert things(walked(memory(SONY, steps=2), question)) == ["Sony", "Bulgaria", "Sofia"]


def test_more_steps_than_an_example_has_names_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps"):
        memory(SONY, steps=6)


def test_walk_goes_through_two_edits() -> None:
    both = memory(SONY, BULGARIA)
    question = "Who is the head of government of the capital of the country of Sony?"
    walk = walked(both, question)
    assert things(walk) == ["Sony", "Bulgaria", "Oslo", "Marianne Borgen"]
    assert [statement.origin for statement in walk.statements] == ["edit", "edit", "graph"]
    assert things(walked(both, "What is the capital of Bulgaria?")) == ["Bulgaria", "Oslo"]


def test_later_edit_replaces_an_earlier_one() -> None:
    again = SONY.model_copy(update={"id": "again", "target_new": "Sofia"})
    assert things(walked(memory(SONY, again), "In which country is Sony?")) == ["Sony", "Sofia"]
    assert things(walked(memory(again, SONY), "In which country is Sony?")) == ["Sony", "Bulgaria"]


def test_replaced_edit_loses_its_inverse() -> None:
    again = BULGARIA.model_copy(update={"id": "again", "target_new": "Sofia"})
    edited = memory(BULGARIA, again)
    assert not walked(edited, "Which country has Oslo as its capital?")
    assert things(walked(edited, "Which country has Sofia as its capital?")) == ["Sofia", "Bulgaria"]


def test_edit_states_its_inverse_unless_it_is_switched_off() -> None:
    question = "Which country has Oslo as its capital?"
    assert things(walked(memory(BULGARIA), question)) == ["Oslo", "Bulgaria"]
    assert not walked(memory(BULGARIA, inverse=False), question)


def test_question_about_another_country_does_not_go_to_the_edited_one() -> None:
    """In the packaged graph Spain has diplomatic relations with China."""
    china = Edit(
        id="china",
        subject="China",
        subject_id="Q148",
        prompt="The capital of {} is",
        relation="capital",
        relation_id="P36",
        target_new="Shanghai",
        target_new_id="Q8686",
    )
    patch = GraphMemory.on(tiny("llama"), settings={"choose": "words", "recall": False}).edit([china])
    assert isinstance(patch, GraphMemoryPatch)
    assert walked(patch, "What is the capital of China?")
    assert not walked(patch, "What is the capital of Spain?")


def test_old_object_is_withdrawn() -> None:
    edited: EditedGraph = memory(BULGARIA).graph
    labels = [item.object.label for item in edited.find_statements(edited.starts["Bulgaria"])["P36"]]
    assert labels == ["Oslo"]


def test_model_answers_what_the_graph_does_not_state() -> None:
    """The tiny model's answers mean nothing; that the statement is marked as the model's is the point."""
    method = GraphMemory.on(tiny("llama"), settings={"choose": "words"}, graph=graph())
    patch = method.edit([SONY])
    assert isinstance(patch, GraphMemoryPatch)
    walk = walked(patch, "What is the founder of the country of Sony?")
    assert [statement.origin for statement in walk.statements] in (["edit"], ["edit", "model"])


@pytest.mark.parametrize("choose", ["noun", "question"])
def test_model_chooses_only_among_relations_of_the_thing(choose: str) -> None:
    patch = memory(SONY, choose=choose, margin=0.0)
    walk = walked(patch, "Which money does one use in the country where Sony lies?")
    assert things(walk)[:2] == ["Sony", "Bulgaria"]
    assert {statement.origin for statement in walk.statements} <= {"edit", "graph"}


def test_edit_of_a_subject_that_the_graph_lacks_is_found_by_its_name() -> None:
    unknown = Edit(id="1", subject="Nobody's Café", prompt="{} lies in the country of", target_new="Bulgaria")
    assert things(walked(memory(unknown), "In which country does nobody's cafe lie?")) == ["Nobody's Café", "Bulgaria"]


def company(name: str, parent: str) -> Edit:
    """The edit that a company has a new parent company."""
    return Edit(
        id=name,
        subject=name,
        prompt="The parent company of {} is",
        relation="parent company",
        relation_id="P749",
        target_new=parent,
    )


def test_a_new_subsidiary_stands_beside_the_others() -> None:
    """Oslo Motors has a subsidiary, Aiwa. Two edits give it others; a walk may still go through Aiwa."""
    chosen = {"choose": "words", "recall": False}
    edits = [company("Sonos", "Oslo Motors"), company("Bose", "Oslo Motors")]
    stated = graph(("Oslo Motors", "subsidiary", "Aiwa"))
    patch = GraphMemory.on(tiny("llama"), settings=chosen, graph=stated).edit(edits)
    assert isinstance(patch, GraphMemoryPatch)
    remembered = []
    for _, edit in patch.remembered:  # with the property, which Wikidata has for the label of a private graph
        renamed = tuple(statement.model_copy(update={"relation_key": "P355"}) for statement in edit.stated)
        remembered.append(edit.model_copy(update={"stated": renamed}))
    edited = EditedGraph(remembered, RelationWords())
    parent = edited.facts["name:sonos", "P749"].object
    subsidiaries = edited.find_statements(parent)["P355"]
    assert [statement.object.label for statement in subsidiaries] == ["Sonos", "Bose", "Aiwa"]
    assert edited.find_edits(parent) == {"Sonos", "Bose"}
    walk = Walker(edited, tiny("llama"), patch.rule).walk("What is the subsidiary of Oslo Motors?")
    assert things(walk)[1] in ("Sonos", "Bose"), "what an edit states comes first"


def test_an_inverse_does_not_undo_an_edit_of_the_same_relation() -> None:
    """Of two edits of twin cities, the second one's inverse is about the subject of the first."""
    first = Edit(
        id="first", subject="Oslo", prompt="{} is a twin city of", relation="twin city", relation_id="P190",
        target_new="Sofia",
    )  # fmt: skip
    second = first.model_copy(update={"id": "second", "subject": "Varna", "target_new": "Oslo"})
    assert things(walked(memory(first, second), first.text)) == ["Oslo", "Sofia"]
