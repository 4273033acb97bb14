"""A Ripples file as it is read: paths in words, four cells, what is withheld, objects to choose from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Record
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset, ripples
from kg_edit.evaluation.datasets.building import check_fields
from kg_edit.evaluation.datasets.lint import lint
from kg_edit.evaluation.datasets.reading import FileContent
from kg_edit.evaluation.datasets.ripples import split_of, withheld_answers

EDIT = {
    "subject": "Rome",
    "prompt": "{} lies in the country of",
    "target_true": "Italy",
    "target_new": "Japan",
    "relation_id": "P17",
    "target_new_id": "Q17",
}
CAPITAL = {"kind": "two-hop", "start": "Rome", "hops": ["P17", "P36"], "answers": ["Tokyo", "Tōkyō"], "old": ["Rome"]}
CURRENCY = {
    "kind": "two-hop",
    "start": "Rome",
    "hops": ["P17", "P38"],
    "answers": ["yen"],
    "known": False,
    "stated": False,
}
THREE = {"kind": "three-hop", "start": "Rome", "hops": ["P17", "P36", "P30"], "answers": ["Asia"], "via": ["Tokyo"]}
INVERSE = {"kind": "inverse", "start": "Japan", "hops": ["-P36"], "answers": ["Rome"]}
STAYS = {"kind": "same-object", "start": "Milan", "hops": ["P17"], "answers": ["Italy"]}


def document(*questions: dict[str, Any], **head: Any) -> dict[str, Any]:
    return {
        "format": "kg-edit ripples/1",
        "nouns": {"P17": "country", "P36": "capital", "P38": "currency", "P30": "continent"},
        "inverse": {"P36": "Which country has {} as its capital?"},
        "choices": {"P36": ["Paris", "Rome", "Tokyo", "Berlin"]},
        "records": [{"id": "one", "split": "dev", "edit": EDIT, "questions": list(questions)}],
        **head,
    }


def read(folder: Path, content: dict[str, Any]) -> BenchmarkRecord:
    file = folder / "ripples.json"
    file.write_text(json.dumps(content))
    (record,) = find_dataset("ripples")(file)
    return record


def test_paths_are_worded(tmp_path: Path) -> None:
    record = read(tmp_path, document(CAPITAL, THREE, INVERSE, STAYS))
    assert [(probe.measures, probe.queries[0].prompt) for probe in record.probes] == [
        ("ripples-known.stated", "What is the capital of the country of Rome?"),
        ("ripples-more.three-hop", "What is the continent of the capital of the country of Rome?"),
        ("ripples-more.inverse", "Which country has Japan as its capital?"),
        ("ripples-stay.same-object", "What is the country of Milan?"),
        ("ripples-edit.question", "What is the country of Rome?"),
    ]
    assert [probe.queries[0].recalled for probe in record.probes[:3]] == [
        "The capital of Japan is Tokyo.",
        "The capital of Japan is Tokyo. The continent of Tokyo is Asia.",
        "",
    ]
    assert split_of(record) == "dev"
    assert record.edits[0].id == "one"


def test_withheld_answers_are_those_of_withheld_cells(tmp_path: Path) -> None:
    record = read(tmp_path, document(CAPITAL, CURRENCY))
    assert [probe.measures for probe in record.probes[:2]] == ["ripples-known.stated", "ripples-unknown.withheld"]
    assert withheld_answers([record]) == {"one": frozenset({"yen"})}
    assert withheld_answers([read(tmp_path, document(CAPITAL))]) == {}


def test_other_answers_are_other_objects_and_the_old_answer(tmp_path: Path) -> None:
    (query,) = read(tmp_path, document(CAPITAL)).probes[0].queries
    assert query.others[0] == "Rome"
    assert sorted(query.others[1:]) == ["Berlin", "Paris"]
    assert query.old == ("Rome",)
    assert query.answers == (("Tokyo", "Tōkyō"),)


def test_fault_names_record_and_field(tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match=r"record 1, field questions\[0\]\.hops: relation 'P99' has no noun"):
        read(tmp_path, document({**CAPITAL, "hops": ["P17", "P99"]}))
    with pytest.raises(EditFileError, match=r"relation 'P17' has no inverse question; add one to the file's inverse"):
        read(tmp_path, document({**INVERSE, "hops": ["-P17"]}))
    with pytest.raises(EditFileError, match=r"field edit\.relation_id: relation 'P17' has no noun"):
        read(tmp_path, document(nouns={"P36": "capital"}))
    with pytest.raises(EditFileError, match=r"field questions\[0\]\.via: found 3 hops and 0 things"):
        read(tmp_path, document({**THREE, "via": []}))
    with pytest.raises(EditFileError, match=r"record 1, field questions\[0\]\.hops"):
        read(tmp_path, document({**STAYS, "hops": []}))
    with pytest.raises(EditFileError, match="expected 'kg-edit ripples/1'; make the file with `kg-edit data ripples`"):
        read(tmp_path, document(CAPITAL, format="else"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({**EDIT, "relation_id": None}, r"field edit\.relation_id: is missing; expected the property"),
        ({"prompt": "Where is Rome?", "target_text": "In Japan.", "relation_id": "P17"}, r"field edit\.target_new: is"),
    ],
)
def test_edit_without_a_question_of_its_own_is_refused(edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match=message):
        read(tmp_path, document(records=[{"id": "one", "edit": edit, "questions": []}]))


def test_fault_of_the_edit_or_of_the_header_is_named(tmp_path: Path) -> None:
    bare = {name: part for name, part in EDIT.items() if name != "subject"}
    with pytest.raises(EditFileError, match=r"record 1, field edit\.subject: is missing"):
        read(tmp_path, document(records=[{"id": "one", "edit": bare, "questions": []}]))
    with pytest.raises(EditFileError, match=r"record 1, field choices\.P36\[1\]: found the number 3; expected text$"):
        read(tmp_path, document(choices={"P36": ["Paris", 3]}))


def test_header_is_validated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validated = list[type]()

    def counted(model: type[Record], row: Mapping[str, Any]) -> Record:
        validated.append(model)
        return check_fields(model, row)

    monkeypatch.setattr(ripples, "check_fields", counted)
    doc = document(CAPITAL, paraphrases={"P17": ["{} belongs to"]})
    file = tmp_path / "ripples.json"
    file.write_text(json.dumps({**doc, "records": [{**doc["records"][0], "id": str(number)} for number in range(3)]}))
    records = find_dataset("ripples")(file)
    assert [record.edits[0].id for record in records] == ["0", "1", "2"]
    assert {record.edits[0].paraphrases for record in records} == {("Rome belongs to",)}
    assert validated.count(ripples.Header) == 1 and len(validated) == 4


@pytest.mark.parametrize("records", [None, 3])
def test_records_that_are_no_list_are_refused(records: object, tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match=r"record 1, found .*; expected an object"):
        read(tmp_path, document(records=records))


def test_empty_paths_of_the_header_are_no_examples(tmp_path: Path) -> None:
    record = read(tmp_path, document(STAYS, examples={"": [["Oslo", "Norway"]], "P17": [[], [], []]}))
    assert [query.examples for probe in record.probes for query in probe.queries] == [(), ()]


def test_lint_finds_unchanged_answer(tmp_path: Path) -> None:
    record = read(tmp_path, document({**CAPITAL, "old": ["Edo", "Tōkyō"]}, {**THREE, "answers": ["Rome"]}))
    (finding,) = lint(FileContent((record,)))
    message = "'Tōkyō' names the answer before the edits, and 'Tokyo' after them"
    assert (finding.kind, finding.message) == ("answer-unchanged", message)
