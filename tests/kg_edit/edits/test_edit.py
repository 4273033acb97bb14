"""An Edit is checked when it is built, and what is wrong is said in plain words."""

import pytest
from pydantic import ValidationError

from kg_edit.edits.edit import Edit, Question, checked
from kg_edit.errors import EditError, UnknownNameError, unknown_name

FACT = {
    "id": "lebron",
    "subject": "LeBron James",
    "prompt": "{} plays the sport of",
    "target_true": "basketball",
    "target_new": "football",
}


def fault(**fields: object) -> tuple[str, str]:
    with pytest.raises(EditError) as raised:
        checked(Edit, FACT | fields)
    (found,) = raised.value.faults
    return found.field, found.message


def test_an_edit_holds_the_fact_and_its_text() -> None:
    edit = checked(Edit, FACT | {"target_new": " football\n", "target_new_id": "Q2736", "paraphrases": ["a ", "b"]})
    assert edit.text == "LeBron James plays the sport of"
    assert (edit.target_new, edit.target_new_id, edit.paraphrases) == ("football", "Q2736", ("a ", "b"))
    assert edit in {edit}, "hashable, so usable as a key"


@pytest.mark.parametrize("subject", ["{}", "{0}", "a {b} c", "%s", "\\1", "Ⅻ “quoted”"])
def test_the_text_is_safe_with_any_subject(subject: str) -> None:
    assert checked(Edit, FACT | {"subject": subject}).text == f"{subject} plays the sport of"


def test_an_edit_cannot_change() -> None:
    with pytest.raises(ValidationError):
        checked(Edit, FACT).subject = "Pelé"  # type: ignore[misc]


def test_a_prompt_without_place_that_names_the_subject() -> None:
    field, message = fault(prompt="Today LeBron James plays the sport of")
    assert (field, message) == (
        "prompt",
        "'Today LeBron James plays the sport of' has no {}; write 'Today {} plays the sport of'",
    )


def test_a_prompt_without_place_or_subject() -> None:
    field, message = fault(prompt="The King plays the sport of")
    assert field == "prompt"
    assert "the subject 'LeBron James' does not occur in it; write {} where" in message


def test_part_of_a_word_is_not_the_subject() -> None:
    assert "does not occur" in fault(subject="Al", prompt="Always and ever")[1]


def test_a_prompt_with_two_places() -> None:
    assert fault(prompt="{} and {} play") == (
        "prompt",
        "'{} and {} play' has 2 places {}; keep one, in the place of the subject's name",
    )


@pytest.mark.parametrize("target", ["basketball", "Basketball", " BASKETBALL "])
def test_a_target_like_the_old_one(target: str) -> None:
    field, message = fault(target_new=target)
    assert field == "target_new"
    assert "is also the old target" in message


def test_a_target_id_like_the_old_one() -> None:
    assert fault(target_true_id="Q5372", target_new_id="Q5372")[0] == "target_new_id"


@pytest.mark.parametrize("field", ["subject", "target_new", "prompt"])
def test_an_empty_text(field: str) -> None:
    assert fault(**{field: " \t"}) == (field, f"is empty; expected {Edit.model_fields[field].description}")


def test_a_value_of_the_wrong_type() -> None:
    assert fault(target_new=["football"]) == ("target_new", "found a list; expected text")
    assert fault(subject=23) == ("subject", "found the number 23; expected text")
    assert fault(subject=True) == ("subject", "found true; expected text")
    assert fault(paraphrases="He plays") == (
        "paraphrases",
        "found the text 'He plays'; expected a list",
    )
    assert fault(paraphrases=["a", 3]) == ("paraphrases[1]", "found the number 3; expected text")
    assert fault(portability=["Who?"]) == (
        "portability[0]",
        "found the text 'Who?'; expected an object {...}",
    )


def test_an_id_that_is_none() -> None:
    assert "found the text 'P36159'; expected a Wikidata id such as" in fault(subject_id="P36159")[1]
    assert fault(relation_id="P0")[0] == "relation_id"


@pytest.mark.parametrize("field, name", [("subject", "Q36159"), ("target_new", "Q2736"), ("relation", "P641")])
def test_an_id_for_a_name_is_refused(field: str, name: str) -> None:
    where, message = fault(**{field: name})
    assert where == field
    assert f"'{name}' is a Wikidata id" in message
    assert f"{field}_id" in message


def test_a_name_that_looks_like_an_id_may_be_meant() -> None:
    assert checked(Edit, FACT | {"subject": "Q5", "subject_id": "Q27224"}).subject == "Q5", "a car"


def test_an_unknown_field_at_any_depth() -> None:
    assert fault(targetnew="x") == ("targetnew", "unknown field, did you mean 'target_new'?")
    field, message = fault(portability=[{"question": "Who?", "answer": "he", "alias": ["him"]}])
    assert (field, message) == ("portability[0].alias", "unknown field, did you mean 'aliases'?")


def test_half_a_surrogate_pair() -> None:
    assert "half a surrogate pair" in fault(subject="LeBron \ud83d")[1]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(EditError) as raised:
        checked(Edit, {"id": "x", "subject": 3, "prompt": "{} is"})
    assert [found.field for found in raised.value.faults] == ["subject", "target_new"]
    assert "field target_new: is missing; expected o*" in str(raised.value)


def test_a_question_has_an_answer() -> None:
    question = Question(question="In which sport does he play?", answer="football", aliases=("soccer",))
    assert checked(Edit, FACT | {"portability": [question]}).portability == (question,)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    error = unknown_name("method", "Rom", ["rome", "glame"])
    assert isinstance(error, UnknownNameError)
    assert str(error) == "unknown method 'Rom', did you mean 'rome'?; known: glame, rome"


def test_an_edit_without_an_id_makes_its_own() -> None:
    """The same fact, the same id, so that a run is known again; and what is written is read back with it."""
    fact = {"subject": "Åsa O'Neil", "prompt": "{} lives in", "target_new": "Rome"}
    edit = Edit(**fact)
    assert edit.id.startswith("åsa-o-neil-") and edit.id == Edit(**fact).id == Edit(**fact, target_true="Oslo").id
    assert edit.id != Edit(**fact | {"target_new": "Bern"}).id
    assert Edit.model_validate_json(edit.model_dump_json(exclude_defaults=True)) == edit
    assert fault(id=" ") == ("id", "is empty; expected a name for the edit, unique in its file")
