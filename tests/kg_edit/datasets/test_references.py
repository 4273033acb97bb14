from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.datasets import find_dataset
from kg_edit.datasets.references import read_references, with_references
from kg_edit.errors import EditFileError
from tests.kg_edit.datasets.rows import COUNTERFACT, written

ROW = {
    "relation_id": "P178",
    "target_id": "Q11463",
    "name": "Adobe",
    "samples": [{"text": "Photoshop is …", "name": "Photoshop", "entity_id": "Q1"}, {"text": "Flash was …"}],
}


def test_texts_by_relation_and_object(tmp_path: Path) -> None:
    file = written(tmp_path, ROW, {**ROW, "target_id": "Q2"}, {**ROW, "samples": [{"text": "More"}]})
    found = read_references(file)
    assert found["P178", "Q11463"] == ("Photoshop is …", "Flash was …", "More")
    assert set(found) == {("P178", "Q11463"), ("P178", "Q2")}


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match=r"records.json, record 2, field samples\[0\].text: is missing"):
        read_references(written(tmp_path, ROW, {**ROW, "samples": [{"txt": "x"}]}))


def test_records_get_the_texts_about_their_edit(tmp_path: Path) -> None:
    records = find_dataset("counterfact")(written(tmp_path, COUNTERFACT))
    (told,) = with_references(records, {("P54", "Q169138"): ("Dwyane Wade …",), ("P54", "Q2"): ("no",)})
    assert told.references == ("Dwyane Wade …",)
    assert with_references(records, {}) == records
