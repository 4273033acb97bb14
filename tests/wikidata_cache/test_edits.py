"""Files of edits, in all their formats and field names."""

import json
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import read_shared, written
from wikidata_cache.edits import EditRow, is_edit_file, read_edits
from wikidata_cache.errors import EditRowError

LEBRON = EditRow(
    row=1,
    subject="LeBron James",
    subject_id="Q36159",
    relation_id="P54",
    target_true="Miami Heat",
    target_true_id="Q169138",
    target_new="Los Angeles Lakers",
    target_new_id="Q121783",
)
FIELDS = {name: value for name, value in vars(LEBRON).items() if name != "row" and value is not None}
TRIPLET = {
    "subject": "LeBron James",
    "subject_id": "http://www.wikidata.org/entity/Q36159",
    "relation": "P54",
    "object": "Miami Heat",
    "object_id": "https://www.wikidata.org/wiki/Q169138",
    "new_object": "Los Angeles Lakers",
    "new_object_id": "Q121783",
    "prompt": "{} plays for",
}
RECORD = {
    "case_id": 3,
    "requested_rewrite": {
        "prompt": "{} plays for",
        "relation_id": "P54",
        "subject": "LeBron James",
        "target_new": {"str": "Los Angeles Lakers", "id": "Q121783"},
        "target_true": {"str": "Miami Heat", "id": "Q169138"},
    },
}


def test_every_format_gives_the_same_edit(tmp_path: Path) -> None:
    for name, text in {
        "a.jsonl": json.dumps(FIELDS) + "\n\n",
        "b.json": json.dumps([FIELDS]),
        "c.csv": ",".join(FIELDS) + "\r\n" + ",".join(FIELDS.values()) + "\r\n",
        "d.tsv": "\ufeff" + "\t".join(FIELDS) + "\n" + "\t".join(FIELDS.values()) + "\n",
        "e.jsonl": json.dumps(TRIPLET),
    }.items():
        assert read_edits(written(tmp_path / name, text)) == [LEBRON], name
    [record] = read_edits(written(tmp_path / "f.json", json.dumps([RECORD])))
    assert record.subject_id is None
    assert {**vars(record), "subject_id": "Q36159"} == vars(LEBRON)


def test_ids_are_accepted_as_labels(tmp_path: Path) -> None:
    row = {"subject": "Q36159", "relation": "member of sports team", "new_object": "Q121783"}
    [edit] = read_edits(written(tmp_path / "a.jsonl", json.dumps(row)))
    assert (edit.subject, edit.subject_id, edit.target_new_id) == ("Q36159", "Q36159", "Q121783")
    assert (edit.relation, edit.relation_id) == ("member of sports team", None)


def test_one_row_of_a_file_is_read(tmp_path: Path) -> None:
    rows = [{**FIELDS, "subject": f"Player {number}"} for number in range(1, 5)]
    path = written(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert [(edit.row, edit.subject) for edit in read_edits(f"{path}:3")] == [(3, "Player 3")]
    assert is_edit_file(f"{path}:3") and is_edit_file("edits.csv") and not is_edit_file("Q42")


def test_counterfact_and_demo_files_are_read() -> None:
    packaged = Path(__file__).parents[2] / "kg_edit" / "data" / "demo.jsonl"
    assert read_edits(packaged)[0].target_new_id == "Q220"
    edits = read_edits(read_shared("counterfact/counterfact-val.json"))
    assert len(edits) > 1_000 and all(edit.subject and edit.target_new for edit in edits)


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ","), ("a.tsv", ";")])
def test_separator_is_found_in_the_header(name: str, separator: str, tmp_path: Path) -> None:
    rows = [["", ""], ["subject", "target_new"], ["A, B", "C; D"]]
    quoted = "\n".join(separator.join(f'"{cell}"' if cell else "" for cell in row) for row in rows)
    [edit] = read_edits(written(tmp_path / name, quoted))
    assert (edit.subject, edit.target_new) == ("A, B", "C; D")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv"])
def test_bytes_that_are_not_utf8_are_located_by_row(name: str, tmp_path: Path) -> None:
    table = "\n".join(["subject,target_new", *['"A,\nb","B"'] * 4_000, "José,B", "C,D"])
    lines = "\n".join(['{"subject": "A"}', ""] * 4_000 + ['{"subject": "José"}', "{}"])
    text = {"a.csv": table, "a.tsv": table.replace(",", "\t"), "a.jsonl": lines}[name]
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(EditRowError, match=r"row 4001: found the byte 0xe9, which is not UTF-8; save the file as"):
        read_edits(tmp_path / name)
    (tmp_path / "head.csv").write_bytes("sujét,target_new\nA,B\n".encode("latin-1"))
    with pytest.raises(EditRowError, match="line 1, byte offset 3: found the byte 0xe9, which is not UTF-8"):
        read_edits(tmp_path / "head.csv")
