"""An Edit is checked when it is built, and its faults are named in plain words."""

import pytest
from pydantic import ValidationError

from kg_edit.edits.edit import Edit, Question, parse_record
from kg_edit.errors import EditError

FACT = {
    "id": "lebron",
    "subject": "LeBron James",
    "prompt": "{} plays the sport of",
    "target_true": "basketball",
    "target_new": "football",
}


def test_edit_has_the_fact_and_its_text() -> None:
    question = Question(question="In which sport does he play?", answer="football", aliases=("soccer",))
    more = {
        "target_new": " football\n",
        "target_new_id": "Q2736",
        "paraphrases": ["a ", "b"],
        "portability": [question],
    }
    edit = parse_record(Edit, FACT | more)
    assert edit.text == "LeBron James plays the sport of"
    assert (edit.target_new, edit.target_new_id, edit.paraphrases) == ("football", "Q2736", ("a ", "b"))
    assert edit.portability == (question,)
    assert edit in {edit}, "hashable, so usable as a key"
    with pytest.raises(ValidationError):
        edit.subject = "Pelé"  # type: ignore[misc]


@pytest.mark.parametrize("subject", ["{}", "{0}", "a {b} c", "%s", "\\1", "Ⅻ “quoted”"])
def test_edit_text_has_any_subject(subject: str) -> None:
    assert parse_record(Edit, FACT | {"subject": subject}).text == f"{subject} plays the sport of"


ASKED = {"question": "Who?", "answer": "he", "alias": ["him"]}
RECALLED = {"question": "Who?", "answer": "he", "recalled_relation": "(\ud83d, is, he)"}
MISSPELT = {"prompt": "Pelé plays the sport of", "answr": "football"}


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        (
            {"prompt": "Today LeBron James plays the sport of"},
            "prompt",
            "'Today LeBron James plays the sport of' has no {}; write 'Today {} plays the sport of'",
        ),
        (
            {"prompt": "The King plays"},
            "prompt",
            "'The King plays' has no {}; the subject 'LeBron James' does not occur in it; write {} where",
        ),
        (
            {"subject": "Al", "prompt": "Always and ever"},
            "prompt",
            "the subject 'Al' does not occur",
        ),  # a part of a word
        ({"prompt": "{} and {} play"}, "prompt", "has 2 places {}; keep one, in the place of the subject's name"),
        *(
            ({"target_new": target}, "target_new", "is also the old target")
            for target in ("basketball", "Basketball", " BASKETBALL ")
        ),
        ({"target_true_id": "Q5372", "target_new_id": "Q5372"}, "target_new_id", ""),
        *(
            ({field: " \t"}, field, f"is empty; expected {Edit.model_fields[field].description}")
            for field in ("subject", "target_new", "prompt")
        ),
        ({"id": " "}, "id", "is empty; expected a name for the edit, unique in its file"),
        (
            {"target_new": "foot\nball"},
            "target_new",
            "has a line break, at which a generated answer ends; write it on one",
        ),
        ({"target_new": "foot\r\nball"}, "target_new", "line, or a paragraph as target_text"),
        ({"portability": [{"question": "Who?", "answer": "h\ne"}]}, "portability[0].answer", "has a line break"),
        ({"locality": {"prompt": "Snow is", "answer": "wh\nite"}}, "locality[0].answer", "has a line break"),
        ({"target_new": ["football"]}, "target_new", "found a list; expected text"),
        ({"subject": 23}, "subject", "found the number 23; expected text"),
        ({"subject": True}, "subject", "found true; expected text"),
        ({"paraphrases": "He plays"}, "paraphrases", "found the text 'He plays'; expected a list [...]"),
        ({"paraphrases": ["a", 3]}, "paraphrases[1]", "found the number 3; expected text"),
        ({"portability": ["Who?"]}, "portability[0]", "found the text 'Who?'; expected an object {...}"),
        ({"subject_id": "P36159"}, "subject_id", "found the text 'P36159'; expected a Wikidata id such as"),
        ({"relation_id": "P0"}, "relation_id", ""),
        ({"subject": "Q36159"}, "subject", "'Q36159' is a Wikidata id"),
        ({"target_new": "Q2736"}, "target_new", "target_new_id"),
        ({"relation": "P641"}, "relation", "relation_id"),
        ({"targetnew": "x"}, "targetnew", "unknown field, did you mean 'target_new'?"),
        ({"portability": [ASKED]}, "portability[0].alias", "unknown field, did you mean 'aliases'?"),
        ({"locality": [MISSPELT]}, "locality[0].answr", "unknown field, did you mean 'answer'?"),
        ({"subject": "LeBron \ud83d"}, "subject", "half a surrogate pair"),
        ({"ending": ". \ud83d"}, "ending", "half a surrogate pair"),
        ({"portability": [RECALLED]}, "portability[0].recalled_relation", "half a surrogate pair"),
    ],
)
def test_fault_has_field_and_message(fields: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(EditError) as raised:
        parse_record(Edit, FACT | fields)
    (fault,) = raised.value.faults
    assert fault.field == field
    assert message in fault.message


def test_faults_are_all_named() -> None:
    with pytest.raises(EditError) as raised:
        parse_record(Edit, {"id": "x", "subject": 3, "prompt": "{} is"})
    assert [fault.field for fault in raised.value.faults] == ["subject", "target_new"]
    assert "field target_new: is missing; expected o*" in str(raised.value)


def test_subject_that_looks_like_an_id_is_accepted_with_its_id() -> None:
    assert parse_record(Edit, FACT | {"subject": "Q5", "subject_id": "Q27224"}).subject == "Q5", "a car"


def test_default_id_depends_on_the_fact() -> None:
    """The same fact has the same id, so that a run is resumed; a written edit is read with its id."""
    fact = {"subject": "Åsa O'Neil", "prompt": "{} lives in", "target_new": "Rome"}
    edit = Edit(**fact)
    assert edit.id.startswith("åsa-o-neil-") and edit.id == Edit(**fact).id == Edit(**fact, target_true="Oslo").id
    assert edit.id != Edit(**fact | {"target_new": "Bern"}).id
    assert Edit.model_validate_json(edit.model_dump_json(exclude_defaults=True)) == edit
