from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kg_edit.datasets import find_dataset
from kg_edit.errors import EditFileError, UnknownNameError

RECORD: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} plays for the",
        "relation_id": "P54",
        "target_new": {"str": "Miami Heat", "id": "Q169138"},
        "target_true": {"str": "Los Angeles Lakers", "id": "Q121783"},
        "subject": "LeBron James",
    },
    "paraphrase_prompts": ["The team of LeBron James is the"],
    "neighborhood_prompts": ["Anthony Davis plays for the"],
}
QUESTION = {
    "Recalled Relation": "(Miami Heat, located in, Florida)",
    "New Question": "In which state does LeBron James play?",
    "New Answer": "Florida",
}


def written(path: Path, *records: object) -> Path:
    file = path / "records.json"
    file.write_text(json.dumps(records))
    return file


def test_a_record_is_an_edit(tmp_path: Path) -> None:
    (edit,) = find_dataset("counterfact")(written(tmp_path, RECORD))
    assert (edit.id, edit.text, edit.target_new_id) == ("7", "LeBron James plays for the", "Q169138")
    assert edit.neighborhood == ("Anthony Davis plays for the",)


def test_two_records_may_give_one_fact_different_targets(tmp_path: Path) -> None:
    """Each is edited alone."""
    rewrite = {**RECORD["requested_rewrite"], "target_new": {"str": "Chicago Bulls", "id": "Q128109"}}
    file = written(tmp_path, RECORD, {**RECORD, "case_id": 8, "requested_rewrite": rewrite})
    assert [edit.target_new for edit in find_dataset("counterfact")(file)] == ["Miami Heat", "Chicago Bulls"]


def test_plus_adds_the_question(tmp_path: Path) -> None:
    (edit,) = find_dataset("counterfact-plus")(written(tmp_path, {**RECORD, "portability": QUESTION}))
    assert (edit.portability[0].answer, edit.portability[0].recalled_relation) == (
        "Florida",
        "(Miami Heat, located in, Florida)",
    )


def test_plus_requires_the_question(tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match="'7': has no portability question"):
        find_dataset("counterfact-plus")(written(tmp_path, RECORD))


def test_published_records(shared: Path) -> None:
    load = find_dataset("counterfact-plus")
    file = shared / "counterfact_plus" / "dev.json"
    edits = load(file)
    assert len(edits) == 530
    assert load(file, limit=3) == edits[:3]
    assert {len(edit.neighborhood) for edit in edits} == {10}


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'counterfact-plus'"):
        find_dataset("counterfactplus")
