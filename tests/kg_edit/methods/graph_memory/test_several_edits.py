"""Several edits in one question, chains through two edits, and questions that lead to an edited thing.

The graph is the packaged extract. It states that the country of the Black Sea is Turkey, that the manufacturer of
Windows XP is Microsoft, and that the head of government of Tbilisi is Kakha Kaladze.
"""

from __future__ import annotations

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.methods.graph_memory.patch import GraphMemoryPatch
from kg_edit.patches.walks import ShownWalk, find_walks
from tests.kg_edit.methods.graph_memory.toy import TO_TURKEY
from tests.kg_edit.tiny import tiny

CAPITAL = Edit(
    id="capital",
    subject="Turkey",
    subject_id="Q43",
    prompt="The capital of {} is",
    relation="capital",
    relation_id="P36",
    target_new="Tbilisi",
    target_new_id="Q994",
)
MAYOR = Edit(
    id="mayor",
    subject="Tbilisi",
    subject_id="Q994",
    prompt="The head of government of {} is",
    relation="head of government",
    relation_id="P6",
    target_new="Ada Lovelace",
)
TOYOTA = TO_TURKEY.model_copy(update={"id": "toyota", "subject": "Toyota", "target_new": "France"})
MICROSOFT = Edit(  # without an id: it has to be found by its name
    id="microsoft",
    subject="Microsoft",
    prompt="The headquarters of {} is in",
    relation="headquarters location",
    relation_id="P159",
    target_new="Paris",
)
HEAD_OF = "Who is the head of government of the capital of the country of {}?"

WALKS: dict[str, tuple[tuple[Edit, ...], str, list[str], list[str]]] = {
    "the second hop is an edit of o*": (
        (TO_TURKEY, CAPITAL),
        HEAD_OF.format("Sony"),
        ["Sony", "Turkey", "Tbilisi", "Kakha Kaladze"],
        ["edit", "edit", "graph"],
    ),
    "three edits, the last one made first": (
        (MAYOR, CAPITAL, TO_TURKEY),
        HEAD_OF.format("Sony"),
        ["Sony", "Turkey", "Tbilisi", "Ada Lovelace"],
        ["edit", "edit", "edit"],
    ),
    "o* alone, which has an edit of its own": (
        (TO_TURKEY, CAPITAL),
        "What is the capital of Turkey?",
        ["Turkey", "Tbilisi"],
        ["edit"],
    ),
    "a thing that leads to the edited one": (
        (CAPITAL,),
        "What is the capital of the country of the Black Sea?",
        ["Black Sea", "Turkey", "Tbilisi"],
        ["graph", "edit"],
    ),
    "a thing that leads to one with only a name": (
        (MICROSOFT,),
        "Where is the headquarters of the manufacturer of Windows XP?",
        ["Windows XP", "Microsoft", "Paris"],
        ["graph", "edit"],
    ),
    "a thing that leads to two edits": (
        (CAPITAL, MAYOR),
        HEAD_OF.format("the Black Sea"),
        ["Black Sea", "Turkey", "Tbilisi", "Ada Lovelace"],
        ["graph", "edit", "edit"],
    ),
}


def walk_of(edits: tuple[Edit, ...], question: str) -> tuple[ShownWalk, str]:
    """The walk of a question after edits, and the prompt that the model then reads."""
    model = tiny("llama")
    patch = GraphMemory.on(model, settings={"choose": "words", "recall": False}).edit(edits)
    with patch.applied(model) as edited:
        walk = find_walks(edited, [question])[question]
        assert edited.prompt_transform is not None
        return walk, edited.prompt_transform(question)


@pytest.mark.parametrize("asked", WALKS)
def test_walk_leads_through_all_edits(asked: str) -> None:
    edits, question, things, origins = WALKS[asked]
    walk, prompt = walk_of(edits, question)
    assert [walk[0].subject, *(statement.object for statement in walk)] == things
    assert [statement.origin for statement in walk] == origins
    assert all(walk[number].ids[0] == walk[number - 1].ids[2] for number in range(1, len(walk)))
    chain = " ".join(statement.sentence for statement in walk)
    assert prompt.endswith(f"\n\n{chain}\n{question}")  # after an example, which needs a name for each thing


@pytest.mark.parametrize(
    "question, expected",
    [
        ("Are Sony and Toyota in the same country?", ["Turkey", "France"]),
        ("Which is larger, the country of Toyota or the country of Sony?", ["France", "Turkey"]),
        ("Is Sony in the same country as Nintendo?", ["Turkey"]),
    ],
)
def test_question_about_two_edited_things_gets_both_statements(question: str, expected: list[str]) -> None:
    walk, prompt = walk_of((TO_TURKEY, TOYOTA), question)
    assert [statement.object for statement in walk] == expected
    chain = " ".join(statement.sentence for statement in walk)
    assert prompt.endswith(f"{chain}\n{question}")
    assert ("Belmora" in prompt) == (len(expected) == 1)  # no example says how the answer follows from two walks


def test_each_of_two_things_is_asked_with_the_words_near_its_name() -> None:
    question = "Is the capital of the country of Sony larger than the capital of the country of Toyota?"
    walk, _ = walk_of((TO_TURKEY, TOYOTA), question)
    assert [(statement.subject, statement.relation) for statement in walk] == [
        ("Sony", "country"),
        ("Turkey", "capital"),
        ("Toyota", "country"),
        ("France", "capital"),
    ]


def test_other_name_of_the_same_edit_begins_no_walk_of_its_own() -> None:
    """Tbilisi has the inverse of the edit: it is the capital of Turkey."""
    walk, _ = walk_of((CAPITAL,), "Is Turkey the country whose capital is Tbilisi?")
    assert walk[0].subject == "Turkey"
    assert all(walk[number].ids[0] == walk[number - 1].ids[2] for number in range(1, len(walk)))


@pytest.mark.parametrize("order", [1, -1], ids=["as made", "the other way round"])
def test_edit_replaces_what_a_private_graph_states_around_another_edit(order: int) -> None:
    """The statements around the edit of the leader have Ingrid's old residence, under the graph's own label."""
    graph = nx.MultiDiGraph()
    graph.add_edge("Ingrid", "Voss", label="residence")
    graph.add_edge("Ingrid", "biology", label="field")
    graph.add_edge("Oslo", "Norway", label="country")
    leader = Edit(id="leader", subject="Heron", prompt="The leader of {} is", relation="leader", target_new="Ingrid")
    residence = Edit(
        id="residence", subject="Ingrid", prompt="The residence of {} is", relation="residence", target_new="Oslo"
    )
    memory = GraphMemory.on(tiny("llama"), settings={"recall": False}, graph=graph)
    patch = memory.edit([leader, residence][::order])
    assert isinstance(patch, GraphMemoryPatch)
    (ingrid,) = [thing for thing in patch.graph.starts.values() if thing.label == "Ingrid"]
    stated = []
    for statements in patch.graph.find_statements(ingrid).values():
        stated += [(statement.relation_label, statement.object.label) for statement in statements]
    assert sorted(stated) == [("field", "biology"), ("residence", "Oslo")]
