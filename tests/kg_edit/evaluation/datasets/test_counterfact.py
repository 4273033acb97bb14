from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.counterfact import read_references, with_references
from tests.everyday import keep_first
from tests.kg_edit.evaluation.datasets.rows import COUNTERFACT, FLAT, written


def test_records_may_edit_one_fact_to_different_targets(tmp_path: Path) -> None:
    """Each is edited alone."""
    rewrite = {**COUNTERFACT["requested_rewrite"], "target_new": {"str": "Chicago Bulls", "id": "Q128109"}}
    file = written(tmp_path, COUNTERFACT, {**COUNTERFACT, "case_id": 8, "requested_rewrite": rewrite})
    targets = [edit.target_new for record in find_dataset("counterfact")(file) for edit in record.edits]
    assert targets == ["Miami Heat", "Chicago Bulls"]


def test_generation_prompts_are_a_probe(tmp_path: Path) -> None:
    (record,) = find_dataset("counterfact")(written(tmp_path, COUNTERFACT))
    (probe,) = record.group("generation")
    assert [query.prompt for query in probe.queries] == ["LeBron James lives in ", "LeBron James's team is"]
    assert all(query.form == "sentence" and not query.answers for query in probe.queries)


def test_flat_form_is_read(tmp_path: Path) -> None:
    (record,) = find_dataset("counterfact")(written(tmp_path, FLAT))
    (edit,) = record.edits
    assert (edit.prompt, edit.target_true) == ("The mother tongue of {} is", "French")
    assert edit.paraphrases == ("Danielle Darrieux speaks the language",)
    assert edit.neighborhood == ("Michel Rocard is a native speaker of",)
    assert record.group("locality")[0].queries[0].answers == (("French",),)


def test_neighbour_with_another_answer_is_only_a_locality_probe(tmp_path: Path) -> None:
    (record,) = find_dataset("counterfact")(written(tmp_path, {**FLAT, "locality_ground_truth": "Breton"}))
    assert record.edits[0].neighborhood == ()
    assert record.group("locality")[0].queries[0].answers == (("Breton",),)


def test_published_records_are_read(shared: Path) -> None:
    """CounterFact has ten neighbours, ten generation prompts and two paraphrases a record (Meng et al. 2022)."""
    records = find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")
    edits = [edit for record in records for edit in record.edits]
    assert len(edits) == 530
    assert {len(edit.neighborhood) for edit in edits} == {10}
    assert {len(edit.paraphrases) for edit in edits} == {2}
    assert sum(len(probe.queries) for record in records for probe in record.group("generation")) == 5300


@pytest.mark.parametrize(("part", "count"), keep_first([("val", 1907), ("edit", 9452)], unpack=True))
def test_published_flat_records_are_read(part: str, count: int, shared: Path) -> None:
    records = find_dataset("counterfact")(shared / "counterfact" / f"counterfact-{part}.json")
    assert len(records) == count
    assert all(len(record.edits[0].neighborhood) == len(record.group("locality")) == 1 for record in records)


SNIPPETS = {
    "relation_id": "P178",
    "target_id": "Q11463",
    "name": "Adobe",
    "samples": [{"text": "Photoshop is …", "name": "Photoshop", "entity_id": "Q1"}, {"text": "Flash was …"}],
}


def test_references_are_grouped_by_relation_and_object(tmp_path: Path) -> None:
    file = written(tmp_path, SNIPPETS, {**SNIPPETS, "target_id": "Q2"}, {**SNIPPETS, "samples": [{"text": "More"}]})
    references = read_references(file)
    assert references["P178", "Q11463"] == ("Photoshop is …", "Flash was …", "More")
    assert set(references) == {("P178", "Q11463"), ("P178", "Q2")}


def test_wrong_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match=r"records.json, record 2, field samples\[0\].text: is missing"):
        read_references(written(tmp_path, SNIPPETS, {**SNIPPETS, "samples": [{"txt": "x"}]}))


def test_references_are_added_to_records(tmp_path: Path) -> None:
    records = find_dataset("counterfact")(written(tmp_path, COUNTERFACT))
    (record,) = with_references(records, {("P54", "Q169138"): ("Dwyane Wade …",), ("P54", "Q2"): ("no",)})
    assert record.references == ("Dwyane Wade …",)
    assert with_references(records, {}) == records
