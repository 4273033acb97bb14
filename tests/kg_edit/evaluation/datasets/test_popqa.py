from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.popqa import QUESTIONS
from tests.kg_edit.evaluation.datasets.rows import POPQA, written


def test_row_edit_has_its_own_answer(tmp_path: Path) -> None:
    (record,) = find_dataset("popqa")(written(tmp_path, POPQA))
    (edit,) = record.edits
    assert (edit.prompt, edit.target_new, edit.relation) == ("What is {}'s occupation?", "politician", "occupation")
    assert (edit.subject_id, edit.target_new_id) == ("Q5543720", "Q82955")
    assert record.group("recall")[0].queries[0].answers == (("politician", "political leader"),)


def test_code_of_a_country_is_no_alias(tmp_path: Path) -> None:
    """Else a text such as "It is in Peru." would have the answer India."""
    row = {**POPQA, "obj": "India", "possible_answers": '["India", "in", "IND", "Bharat"]'}
    (record,) = find_dataset("popqa")(written(tmp_path, row))
    assert record.group("recall")[0].queries[0].answers == (("India", "IND", "Bharat"),)


def test_short_row_is_read_by_its_question(tmp_path: Path) -> None:
    file = tmp_path / "parts.json"
    row = {"input": "What sport does José Silva play?", "output": '["football", "soccer"]', "id": 9}
    file.write_text(json.dumps({"name": "popqa", "dev": [row], "test": [{**row, "id": 10}]}))
    first, second = find_dataset("popqa")(file)
    assert (first.id, second.id) == ("9", "10")
    assert (first.edits[0].subject, first.edits[0].relation, first.edits[0].target_new) == (
        "José Silva",
        "sport",
        "football",
    )


def test_one_part_is_enough_and_a_part_that_is_no_list_is_one_wrong_row(tmp_path: Path) -> None:
    file = tmp_path / "parts.json"
    row = {"input": "What sport does José Silva play?", "output": '["football"]', "id": 9}
    file.write_text(json.dumps({"test": [row]}))
    assert [record.id for record in find_dataset("popqa")(file)] == ["9"]
    file.write_text(json.dumps({"dev": [row], "test": None}))
    with pytest.raises(EditFileError, match=r"record 2, found None \(null\); expected an object"):
        find_dataset("popqa")(file)


@pytest.mark.slow
def test_published_rows_are_read(shared: Path) -> None:
    """Sixteen relations (Mallen et al. 2023); each question of the two parts is that of one of them."""
    assert len(find_dataset("popqa")(shared / "popqa" / "popqa_1000_with_uris_paragraphs.json")) == 1000
    records = find_dataset("popqa")(shared / "popqa" / "popqa_dev1000_test1000_spop.json")
    assert len(records) == 2000
    assert {record.edits[0].relation for record in records} == set(QUESTIONS)
    assert len(QUESTIONS) == 16
