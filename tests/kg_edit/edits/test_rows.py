"""Triplets and CounterFact records become edits, with labels and prompts for what is given as ids."""

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.rows import ids_to_label, to_edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import EditError

TEMPLATES = RelationTemplates.load()
LABELS = {
    "Q36159": "LeBron James",
    "Q121783": "Los Angeles Lakers",
    "Q128109": "Chicago Bulls",
    "P2348": "time period",
}
TRIPLET = {"subject": "Q36159", "relation": "P54", "object": "Q121783", "new_object": "Q128109"}
COUNTERFACT = {
    "case_id": 0,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The mother tongue of Léon Blum is"],
    "attribute_prompts": [],
    "generation_prompts": [],
}


def edit(row: dict[str, object]) -> Edit:
    return to_edit(row, row_id="row-1", labels=LABELS, templates=TEMPLATES)


def fault(row: dict[str, object]) -> tuple[str, str]:
    with pytest.raises(EditError) as raised:
        edit(row)
    (error,) = raised.value.faults
    return error.field, error.message


def test_triplet_of_ids_is_labelled() -> None:
    assert edit(TRIPLET) == Edit(
        id="row-1",
        subject="LeBron James",
        subject_id="Q36159",
        relation="member of sports team",
        relation_id="P54",
        prompt="{} plays for",
        target_true="Los Angeles Lakers",
        target_true_id="Q121783",
        target_new="Chicago Bulls",
        target_new_id="Q128109",
    )


def test_triplet_may_mix_labels_and_ids() -> None:
    parsed = edit({"id": 7, "subject": "Ann", "relation": "Place of birth", "new_object": "Q128109"})
    assert (parsed.id, parsed.subject_id, parsed.target_true) == ("7", None, None)
    assert (parsed.relation_id, parsed.prompt) == ("P19", "{} was born in")
    assert (parsed.target_new, parsed.target_new_id) == ("Chicago Bulls", "Q128109")


def test_triplet_of_iris_equals_one_of_ids() -> None:
    entity = "http://www.wikidata.org/entity/"
    row = {name: entity + str(id_) for name, id_ in TRIPLET.items()}
    row["relation"] = "http://www.wikidata.org/prop/direct/P54"
    assert edit(dict(row)) == edit(TRIPLET)


def test_own_label_with_its_id_is_used() -> None:
    parsed = edit(TRIPLET | {"subject": "King James", "subject_id": "Q36159", "new_object_id": "Q128109"})
    assert (parsed.subject, parsed.subject_id) == ("King James", "Q36159")


def test_relation_without_template_is_worded_by_its_label() -> None:
    assert edit(TRIPLET | {"relation": "P2348"}).prompt == "The time period of {} is"
    parsed = edit(TRIPLET | {"relation": "best friend"})
    assert (parsed.prompt, parsed.relation, parsed.relation_id) == (
        "The best friend of {} is",
        "best friend",
        None,
    )


def test_own_prompt_needs_no_template() -> None:
    parsed = edit(TRIPLET | {"relation": "P999999", "prompt": "{} is with"})
    assert (parsed.prompt, parsed.relation, parsed.relation_id) == ("{} is with", None, "P999999")
    without = {name: value for name, value in TRIPLET.items() if name != "relation"}
    assert edit(without | {"prompt": "{} is with"}).relation is None


NO_LABEL = (
    "found the id Q999999999, for which there is no label; write the label here and the id in "
    "new_object_id, or give a --graph with labels"
)


@pytest.mark.parametrize(
    "change, field, message",
    [
        ({"subject": 5}, "subject", "found the number 5; expected text"),
        ({"relation": "P999999"}, "relation", "unknown relation id without template: P999999"),
        ({"relation": "P999999"}, "relation", "give `kg-edit edit` a file with a template for it: --templates FILE"),
        ({"new_object": "Q999999999"}, "new_object", NO_LABEL),
        ({"new_object": ["Rome"]}, "new_object", "found a list; expected text"),
        ({"new_object": " "}, "new_object", "is empty; expected o*, what the edited model should predict"),
        ({"new_object": "los angeles lakers"}, "new_object", "is also the old target"),
        ({"objekt": "x"}, "objekt", "unknown field, did you mean 'object'?"),
        ({"target_new": "x"}, "target_new", "unknown field in a triplet; expected 'new_object'"),
        ({"color": "x"}, "color", "unknown field; known: id, subject, prompt, object, new_object"),
        ({"prompt": "plays for"}, "prompt", "has no {}"),
    ],
)
def test_fault_has_the_triplets_own_name(change: dict[str, object], field: str, message: str) -> None:
    where, text = fault(TRIPLET | change)
    assert where == field
    assert message in text


@pytest.mark.parametrize(
    "relation", [" P17", "http://www.wikidata.org/prop/direct/P17", "https://www.wikidata.org/wiki/Property:P17"]
)
def test_edit_without_prompt_may_name_its_relation_by_an_address(relation: str) -> None:
    parsed = edit({"subject": "Ann", "relation": relation, "target_new": "Rome"})
    assert (parsed.relation, parsed.relation_id, parsed.prompt) == ("country", "P17", "{} lies in the country of")
    unknown = {"subject": "Ann", "relation": relation.replace("P17", "P2348"), "target_new": "Rome"}
    assert ids_to_label(unknown, TEMPLATES) == {"P2348"}


@pytest.mark.parametrize("row", [TRIPLET, {"subject": "Ann", "relation_id": "P17", "target_new": "Rome"}])
def test_null_field_of_a_row_is_absent(row: dict[str, object]) -> None:
    null = dict.fromkeys(("prompt", "paraphrases", "chat", "requested_rewrite"))
    assert edit(row | null) == edit(row)
    assert ids_to_label(row | null, TEMPLATES) == ids_to_label(row, TEMPLATES)


def test_counterfact_row_is_read() -> None:
    parsed = edit(COUNTERFACT)
    assert (parsed.id, parsed.subject, parsed.text) == (
        "0",
        "Danielle Darrieux",
        "The mother tongue of Danielle Darrieux is",
    )
    assert (parsed.relation, parsed.relation_id) == ("native language", "P103")
    assert (parsed.target_true, parsed.target_true_id) == ("French", "Q150")
    assert (parsed.target_new, parsed.target_new_id) == ("English", "Q1860")
    assert parsed.neighborhood == ("The mother tongue of Léon Blum is",)
    assert parsed.portability == ()


def test_relation_of_a_counterfact_row_is_in_the_rows_language() -> None:
    assert edit(COUNTERFACT | {"language": "de"}).relation == "Muttersprache"


def test_counterfactplus_row_has_a_question() -> None:
    portability = {"Recalled Relation": "(English, ...)", "New Question": "Which family?", "New Answer": "Germanic"}
    (question,) = edit(COUNTERFACT | {"portability": portability}).portability
    assert (question.question, question.answer) == ("Which family?", "Germanic")
    assert fault(COUNTERFACT | {"portability": portability | {"New Anser": "x"}}) == (
        "portability.New Anser",
        "unknown field, did you mean 'New Answer'?",
    )
    field, message = fault(COUNTERFACT | {"portability": portability | {"New Answer": "two\nlines"}})
    assert field == "portability.New Answer" and "line break" in message


def test_ending_begins_with_a_space() -> None:
    """Cells of a table, and the fields of a triplet, lose their outer spaces."""
    endings = ["in Pennsylvania.", " in Pennsylvania.", ", a city.", "的首都", "है", "في مصر", "입니다"]
    assert [edit({**TRIPLET, "ending": text}).ending for text in endings] == [
        " in Pennsylvania.",
        " in Pennsylvania.",
        ", a city.",
        "的首都",
        " है",
        " في مصر",
        "입니다",
    ]


def test_fault_has_counterfacts_own_name() -> None:
    rewrite = COUNTERFACT["requested_rewrite"]
    assert isinstance(rewrite, dict)
    missing = {name: value for name, value in rewrite.items() if name != "subject"}
    assert fault(COUNTERFACT | {"requested_rewrite": missing})[0] == "requested_rewrite.subject"
    for no_text in ({"id": "Q150"}, {"str": 3}):
        faulty = rewrite | {"target_new": no_text}
        assert fault(COUNTERFACT | {"requested_rewrite": faulty})[0] == "requested_rewrite.target_new.str"
    same = rewrite | {"target_new": {"str": "french"}}
    assert fault(COUNTERFACT | {"requested_rewrite": same})[0] == "requested_rewrite.target_new.str"
    prompt = rewrite | {"prompt": "Danielle Darrieux speaks"}
    assert fault(COUNTERFACT | {"requested_rewrite": prompt}) == (
        "requested_rewrite.prompt",
        "'Danielle Darrieux speaks' has no {}; write '{} speaks'",
    )
    assert fault(COUNTERFACT | {"paraphrase_promts": []})[1] == "unknown field, did you mean 'paraphrase_prompts'?"


def test_ids_to_label_are_those_without_label() -> None:
    assert ids_to_label(TRIPLET, TEMPLATES) == {"Q36159", "Q121783", "Q128109"}
    assert ids_to_label(TRIPLET | {"relation": "P2348", "subject": "Ann"}, TEMPLATES) == {
        "P2348",
        "Q121783",
        "Q128109",
    }
    assert ids_to_label(COUNTERFACT, TEMPLATES) == set()
    assert ids_to_label({"subject": "Q1", "prompt": "{} is", "target_new": "big"}, TEMPLATES) == set()
