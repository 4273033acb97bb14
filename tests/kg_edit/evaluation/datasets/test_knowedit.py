from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset
from tests.kg_edit.evaluation.datasets.rows import FACT, written

KNOWEDIT = find_dataset("knowedit")


def test_fact_row_has_categories(tmp_path: Path) -> None:
    (record,) = KNOWEDIT(written(tmp_path, FACT))
    (edit,) = record.edits
    assert (edit.text, edit.target_new, edit.target_true) == (FACT["prompt"], "Franche-Comté", "France")
    reasoning, first, second = record.group("portability")
    assert (reasoning.measures, reasoning.queries[0].answers) == ("portability.Reasoning", (("Besançon",),))
    assert first.queries[0].answers == (("Franche-Comté", "FC"), ("Comté",))
    assert second.queries[0].answers == (("Franche-Comté", "FC"),)
    assert (first.queries[0].form, second.queries[0].form) == ("sentence", "question")


def test_prompt_without_answer_is_left_out_with_remark(tmp_path: Path) -> None:
    (record,) = KNOWEDIT(written(tmp_path, FACT))
    assert not record.group("locality")
    assert record.remarks[0].message == "left out: 1 prompt of locality.Relation_Specificity without an answer"


def test_first_of_several_prompts_is_asked(tmp_path: Path) -> None:
    portability = {"Reasoning": [{"prompt": ["Its capital is", "It has the capital"], "ground_truth": "Besançon"}]}
    (record,) = KNOWEDIT(written(tmp_path, {**FACT, "portability": portability}))
    assert record.group("portability")[0].queries[0].prompt == "Its capital is"


def test_biography_row_is_edited_to_the_next_sentence(tmp_path: Path) -> None:
    row = {
        "concept": "rick mahler",
        "text": "About rick mahler. Rick Mahler was born",
        "labels": "He lived.",
        "locality": {},
        "portability": {"Reasoning": [{"prompt": "His brother is", "ground_truth": ["Mickey"]}]},
    }
    (record,) = KNOWEDIT(written(tmp_path, row))
    assert (record.edits[0].prompt, record.edits[0].target_new) == ("About {}. Rick Mahler was born", "He lived.")
    assert [probe.measures for probe in record.probes] == ["efficacy", "portability.Reasoning"]


def test_opinion_row_compares_replies(tmp_path: Path) -> None:
    row = {"ent": "Estero", "pos": [" I like it. ", "Good.", "Good."], "neg": ["Bad. "]}
    (record,) = KNOWEDIT(written(tmp_path, row))
    assert (record.edits[0].text, record.edits[0].target_new) == ("What do you think of Estero?", "I like it.")
    (query,) = record.group("sentiment")[0].queries
    assert (query.answers, query.others) == ((("I like it.",), ("Good.",)), ("Bad.",))


def test_sanitation_locality_questions_are_distributed(tmp_path: Path) -> None:
    edited = [{"question": f"What is {name}?", "ground_truth": name, "target_new": "I don't know."} for name in "AB"]
    locality = [{"question": f"Who is {name}?", "ground_truth": name, "target_new": name} for name in "VWXYZ"]
    file = tmp_path / "sanitation.json"
    file.write_text(json.dumps({"K_F": edited, "K_R": locality}))
    first, second = KNOWEDIT(file)
    names = [[probe.queries[0].prompt[7] for probe in record.group("locality")] for record in (first, second)]
    assert names == [["V", "X", "Z"], ["W", "Y"]]
    assert (first.edits[0].subject, first.edits[0].prompt) == ("What is A", "{}?")


@pytest.mark.parametrize(
    "wrong", [{"ground_truth": "V"}, {"question": None, "ground_truth": "V"}, {"question": "V?"}, 3]
)
def test_wrong_locality_question_of_sanitation_is_named(wrong: object, tmp_path: Path) -> None:
    edited = {"question": "What is A?", "ground_truth": "A", "target_new": "I don't know."}
    file = tmp_path / "sanitation.json"
    file.write_text(json.dumps({"K_F": [edited], "K_R": [{"question": "Who is V?", "ground_truth": "V"}, wrong]}))
    with pytest.raises(
        EditFileError, match=r"record 2, field K_R\[1\]: found .*; expected an object with question and"
    ):
        KNOWEDIT(file)
    (record,) = KNOWEDIT.read(file).records
    assert [probe.queries[0].prompt for probe in record.group("locality")] == ["Who is V?"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "rows", "usable"),
    [
        ("ZsRE-test-all", 1304, 1301),  # 1,301 in the paper: those whose question names its subject
        ("wiki_recent_train", 570, 570),
        ("wiki_counterfact_train_cf", 1428, 1426),
        ("wikibio-test-all", 306, 306),
        ("convsent_blender_test", 800, 800),
        ("sanitation_trivia_qa_test", 80, 80),
        ("sanitation_trivia_qa_train", 80, 80),
    ],
)
def test_published_rows_are_read(file: str, rows: int, usable: int, shared: Path) -> None:
    reading = KNOWEDIT.read(shared / "knowedit" / f"{file}.json")
    assert (len(reading.records) + len({problem.row for problem in reading.problems}), len(reading.records)) == (
        rows,
        usable,
    )


def test_sanitation_locality_questions_are_asked_once(shared: Path) -> None:
    records = KNOWEDIT(shared / "knowedit" / "sanitation_trivia_qa_test.json")
    prompts = [probe.queries[0].prompt for record in records for probe in record.group("locality")]
    assert len(prompts) == len(set(prompts)) == 453
