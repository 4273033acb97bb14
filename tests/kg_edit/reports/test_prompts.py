"""The prompts that both models are asked: of files, of edits, packaged ones, and those about the edits' relations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit, LocalityPrompt
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import EditFileError
from kg_edit.reports.prompts import (
    AskedPrompt,
    join_repeats,
    own_prompts,
    packaged_prompts,
    read_prompts,
    related_facts,
    unrelated_prompts,
)

CAPITAL = Edit(subject="France", prompt="In {}, the capital is", target_new="Rome", relation_id="P36")
PROMPTS = (
    AskedPrompt(prompt="The capital of Italy is", answer=("Rome", "Milan")),
    AskedPrompt(prompt="Snow is", answer="white"),
    AskedPrompt(prompt="Once upon a"),
)
FILES = {
    "prompts.txt": "The capital of Italy is\tRome\tMilan\n\nSnow is\twhite\r\nOnce upon a\n",
    "spaces.txt": "The capital of Italy is\t Rome\tMilan \nSnow is\twhite  \n\t\nOnce upon a\t\n",
    "spaces.jsonl": '{"prompt": "The capital of Italy is", "answer": [" Rome", "Milan "]}\n'
    '{"prompt": "Snow is", "answer": "white "}\n"Once upon a"\n',
    "prompts.tsv": "prompt\tanswer\r\nThe capital of Italy is\tRome\tMilan\r\nSnow is\twhite\r\nOnce upon a\n",
    "prompts.csv": "prompt,answer\nThe capital of Italy is,Rome | Milan\nSnow is,white\nOnce upon a,\n",
    "prompts.jsonl": '{"prompt": "The capital of Italy is", "answer": ["Rome", "Milan"]}\n'
    '{"prompt": "Snow is", "answer": "white"}\n"Once upon a"\n',
    "null.jsonl": '{"prompt": "The capital of Italy is", "answer": ["Rome", "Milan"], "edit": null}\n'
    '{"prompt": "Snow is", "answer": "white", "chat": null}\n{"prompt": "Once upon a", "answer": null}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_prompts_are_read_from_each_format(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    assert read_prompts(tmp_path / name) == PROMPTS


def test_faults_of_a_file_of_prompts_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"promt": "a"}\n{"prompt": 1}\n[]\n{')
    with pytest.raises(EditFileError) as error:
        read_prompts(file)
    locations = [line.removeprefix(f"{file}, ").partition(":")[0] for line in str(error.value).splitlines()]
    assert locations == ["line 1, field prompt", "line 1, field promt", "line 2, field prompt", *locations[3:5]]
    assert locations[3].startswith("line 3, found a list; expected a prompt in each row")
    assert locations[4].startswith("line 4, not JSON")
    wrong = (
        ("\n \n", "has no prompts"),
        ("a\n\tb\n", r"line 2, .*prompt"),
        ("text,answer\na,b\n", "column 'text'"),
        ("prompt,answer\nSnow is,white | \n", r"line 2, field answer\[1\]: is empty"),
    )
    for text, message in wrong:
        file = tmp_path / ("a.csv" if "," in text else "a.txt")
        file.write_text(text)
        with pytest.raises(EditFileError, match=message):
            read_prompts(file)


def test_own_prompts_are_asked_in_the_form_of_their_edit() -> None:
    edit = CAPITAL.model_copy(
        update={"locality": (LocalityPrompt(prompt="Snow is", answer="white", aliases=("grey",)),)}
    )
    (plain,), (chat,) = own_prompts([edit]), own_prompts([edit.with_form(chat=True)])
    assert (plain.answer, plain.edit, plain.chat) == (("white", "grey"), edit.id, False)
    assert chat == plain.model_copy(update={"chat": True})


def test_neighborhood_prompts_without_the_old_object_are_compared() -> None:
    edit = CAPITAL.model_copy(update={"neighborhood": ("Snow is",), "target_true": None})
    assert [(question.prompt, question.answer) for question in own_prompts([edit])] == [("Snow is", ())]
    assert own_prompts([edit.model_copy(update={"target_true": "white"})]) == (), "a probe of the report"


@pytest.mark.parametrize("relation", [{"relation_id": "P36"}, {"relation": "Capital"}, {}])
def test_ten_prompts_are_about_the_relation_of_the_edit(relation: dict[str, str]) -> None:
    """Known by its id, its label, or the packaged template as the prompt."""
    prompt = "In {}, the capital is" if relation else "The capital city of {} is"
    edit = Edit(subject="France", prompt=prompt, target_new="Rome", **relation)
    *packaged, _ = (question for question in unrelated_prompts([edit]) if question.source == "unrelated")
    related = [question for question in unrelated_prompts([edit]) if question.source == "relation"]
    assert len(packaged) == 19 and len(set(related)) == len(related)
    assert 8 <= len(related) <= 10, "a thing that is the edited subject is left out"
    assert all(question.prompt.startswith(prompt.partition("{}")[0]) for question in related)
    assert not any("France" in question.prompt for question in related)
    assert all(question.answer for question in related)


def test_each_packaged_relation_is_asked_of_ten_things_that_fit_it() -> None:
    facts = related_facts()
    for row in RelationTemplates.load().english_by_name.values():
        edit = Edit(subject="Xyzzy", prompt=row.template, target_new="Rome", relation=row.label)
        related = [question for question in unrelated_prompts([edit]) if question.source == "relation"]
        assert len({question.prompt for question in related}) == len(facts[row.property_id]) == 10, row
        assert all(question.prompt[0].isupper() or question.prompt[0].isdigit() for question in related)
    louvre = Edit(subject="Louvre", prompt="The {} is in the city of", target_new="Rome", relation_id="P17")
    assert "The Taj Mahal is in the city of" in [question.prompt for question in unrelated_prompts([louvre])]


def test_prompt_without_a_place_for_the_subject_is_not_asked_of_other_things() -> None:
    text = Edit(prompt="What is the capital of Italy?", target_text="It is Paris, on the Seine.", relation_id="P36")
    assert {question.source for question in unrelated_prompts([text])} == {"unrelated"}
    assert [question.source for question in unrelated_prompts([text, CAPITAL])].count("relation") == 9


def test_prompt_that_is_given_twice_is_asked_once() -> None:
    """By two edits, or by an edit and the packaged prompts; it keeps the answers of both."""
    packaged = packaged_prompts()[0]
    own = own_prompts([CAPITAL.model_copy(update={"locality": (LocalityPrompt(prompt=packaged.prompt, answer="x"),)})])
    (once,) = join_repeats((*own, *own, packaged))
    assert (once.source, once.answer) == ("edit", ("x", *packaged.answer))
    assert len(join_repeats([packaged, packaged.model_copy(update={"chat": True})])) == 2
    near = CAPITAL.model_copy(update={"neighborhood": (packaged.prompt,), "target_true": "Paris"})
    texts = {edit: [prompt.text for prompt in unrelated_prompts([edit])] for edit in (CAPITAL, near)}
    assert set(texts[CAPITAL]) - set(texts[near]) == {packaged.text}, "the report has it as a probe"


def test_relations_take_turns() -> None:
    born = Edit(subject="Ann", prompt="{} was born in", target_new="Rome", relation="place of birth")
    related = [question.prompt for question in unrelated_prompts([CAPITAL, born]) if question.source == "relation"]
    assert ["capital" in prompt for prompt in related] == [True, False] * 5


def test_prompts_that_mention_a_subject_are_left_out() -> None:
    italy = Edit(subject="Italy", prompt="{} likes", target_new="Rome")
    assert len(unrelated_prompts([italy])) == 19
    assert {question.chat for question in unrelated_prompts([italy.with_form(chat=True)])} == {True}


def test_twenty_prompts_are_packaged() -> None:
    questions = packaged_prompts()
    assert len({question.prompt for question in questions}) == len(questions) == 20
    assert all(question.answer and question.answer[0] not in question.prompt for question in questions)
    assert json.loads(questions[0].model_dump_json())["source"] == "unrelated"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("edits.csv", "id,subject,prompt,target_new\na,Rome,{} is in,Spain\n", "line 1: has the columns of edits"),
        ("edits.jsonl", '{"subject": "Rome", "prompt": "{} is in", "target_new": "Spain"}', "line 1, is an edit"),
    ],
)
def test_file_of_edits_is_no_file_of_prompts(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(EditFileError, match=message):
        read_prompts(tmp_path / name)
