from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset, guess_dataset
from tests.kg_edit.evaluation.datasets.rows import AKEW, UNKE, written


def test_question_and_paragraph_of_unke(tmp_path: Path) -> None:
    """Also as the published list, and without the questions about parts."""
    (record,) = find_dataset("unke")(written(tmp_path, UNKE))
    (edit,) = record.edits
    assert (edit.id, edit.subject, edit.prompt, edit.paraphrases) == ("4", "", "Who was Ada?", ("What did Ada do?",))
    assert edit.target_text == edit.target_new == "Ada wrote notes on an engine."
    (part,) = record.group("sub-question")
    assert [(query.prompt, query.answers) for query in part.queries] == [("What did Ada write?", (("notes",),))]
    rows = [{**UNKE, "id": 5}, {"id": 6, "category": "code", "question": "Who?", "answer": "Ada."}]
    (tmp_path / "final.json").write_text(json.dumps(rows), encoding="utf-8")
    assert guess_dataset(tmp_path / "final.json").name == "unke"
    assert [record.id for record in find_dataset("unke")(tmp_path / "final.json")] == ["5", "6"]


def test_case_of_akew_has_paragraphs_and_the_probes_of_mquake(tmp_path: Path) -> None:
    file = written(tmp_path, AKEW)
    assert guess_dataset(file).name == "akew"
    (record,) = find_dataset("akew")(file)
    assert [(edit.id, edit.text, edit.target_text) for edit in record.edits] == [
        ("2.0", "What of Misery?", "Misery saw the fox."),
        ("2.1", "What of Richard Dawkins?", "Richard Dawkins saw the fox."),
    ]
    triples = [(query.prompt, query.answers) for probe in record.group("triple") for query in probe.queries]
    assert triples == [("Misery saw", (("the fox",),)), ("Richard Dawkins saw", (("the fox",),))]
    assert len(record.group("edit")) == 2 and record.group("multihop") and record.new_chain
    with pytest.raises(EditFileError, match=r"field requested_rewrite: expected a list of edits"):
        find_dataset("akew")(written(tmp_path, {**AKEW, "requested_rewrite": []}))
    bare = {name: value for name, value in AKEW["requested_rewrite"][0].items() if name != "fact_new_uns"}
    with pytest.raises(EditFileError, match=r"field requested_rewrite\[0\]\.fact_new_uns: is missing"):
        find_dataset("akew")(written(tmp_path, {**AKEW, "requested_rewrite": [bare]}))


@pytest.mark.parametrize(
    ("name", "file", "records"), [("unke", "unke_v2.jsonl", 488), ("akew", "mquake_cf.jsonl", 164)]
)
def test_published_records_are_read(name: str, file: str, records: int, shared: Path) -> None:
    assert len(find_dataset(name)(shared / name / file)) == records
