"""Files of edits that can't be used: each fault is named with its line, its field and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg_edit.edits.files import read_edits
from kg_edit.edits.rows import FIELDS
from kg_edit.errors import EditFileError
from tests.kg_edit.edit_rows import GOOD, HEADER, ROW, lines, refusal, write

# Faults of a file


def test_a_missing_file(tmp_path: Path) -> None:
    assert "none.jsonl: no such file; check the path (the current folder is" in refusal(tmp_path / "none.jsonl")


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; expected a file; give the path of a file in this folder"


def test_another_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.xlsx", b"PK")
    assert refusal(path) == f"{path}: ends in '.xlsx'; expected a file in .jsonl, .json, .csv, .tsv"


@pytest.mark.parametrize(
    "name, content",
    [
        ("edits.jsonl", ""),
        ("edits.jsonl", "\n \n\n"),
        ("edits.json", ""),
        ("edits.json", " \n"),
        ("edits.json", "[]"),
        ("edits.csv", ""),
        ("edits.csv", "\n\n"),
        ("edits.csv", HEADER),
        ("edits.tsv", HEADER.replace(",", "\t") + "\t\t\t\n"),
    ],
)
def test_an_empty_file(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path, name, content)
    assert refusal(path) == f"{path}: has no rows; expected one edit or triplet per row"


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    content = (HEADER + ROW).encode() + "Zoë,{} lives in,Oslo,Rome\n".encode("latin-1")
    path = write(tmp_path, "edits.csv", content)
    offset = len(HEADER + ROW) + 2
    found = "found the byte 0xeb, which is not UTF-8; save the file as UTF-8"
    assert refusal(path) == f"{path}, line 3, byte offset {offset}: {found}"


def test_malformed_json(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "edits.json", '[\n {"subject": "Ann",}\n]'))
    assert "edits.json, line 2, column " in message
    assert "not JSON: " in message
    message = refusal(write(tmp_path, "edits.json", lines(GOOD, GOOD)))
    assert "line 2, column 1: not JSON: Extra data; expected one list of objects; for one object per line" in message


@pytest.mark.parametrize("content", ["1" * 5000, "[" * 100_000])
def test_json_beyond_the_parser(tmp_path: Path, content: str) -> None:
    assert "not JSON" in refusal(write(tmp_path, "edits.json", content))


@pytest.mark.parametrize(
    "header, message",
    [
        (
            "prompt,target_new",
            "line 1: lacks the column 'subject'; expected at least subject, prompt,",
        ),
        ("subject,relation,object", "line 1: lacks the column 'new_object'"),
        ("subject,target_new", "line 1: lacks the column 'prompt'"),
        ("Subject,prompt,target_new", "line 1: unknown column 'Subject', did you mean 'subject'?"),
        ("subject,prompt,target_new,portability", "line 1: unknown column 'portability'; known: id, subject"),
        (
            "Marie Curie,was born in,Rome",
            "line 1: no name of a column ('Marie Curie', …); the first line must be a header",
        ),
        ("subject,prompt,target_new,prompt", "line 1: a column occurs twice in the header: subject, prompt"),
        ('"subject,prompt', "line 1: not a row of a table: unexpected end of data; close the quotes"),
    ],
)
def test_a_header_that_cannot_work(tmp_path: Path, header: str, message: str) -> None:
    path = write(tmp_path, "edits.csv", f"{header}\nAnn,b,c,d\n")
    assert refusal(path).startswith(f"{path}, {message}")


# Faults of a row


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"prompt": "{} is", "target_new": "x"},
            "field subject: is missing; expected s, the entity",
        ),
        (GOOD | {"subject": 7}, "field subject: found the number 7; expected text"),
        (GOOD | {"target_new": ["Rome"]}, "field target_new: found a list; expected text"),
        (
            GOOD | {"target_new": ""},
            "field target_new: is empty; expected o*, what",
        ),
        (GOOD | {"target_new": "oslo"}, "field target_new: 'oslo' is also the old target"),
        (GOOD | {"promt": "x"}, "field promt: unknown field, did you mean 'prompt'?"),
        (GOOD | {"prompt": "Ann lives in"}, "field prompt: 'Ann lives in' has no {}; write '{} lives in'"),
        (
            GOOD | {"prompt": "She lives in"},
            "field prompt: 'She lives in' has no {}; the subject 'Ann'",
        ),
        (GOOD | {"prompt": "{} of {}"}, "field prompt: '{} of {}' has 2 places {}"),
        (GOOD | {"target_new": "Q220"}, "field target_new: 'Q220' is a Wikidata id"),
        (
            {"subject": "Ann", "relation": "P999999", "new_object": "x"},
            "field relation: unknown relation id",
        ),
        (
            {"subject": "Q1", "relation": "P31", "new_object": "x"},
            "field subject: found the id Q1, for",
        ),
        (["Ann", "Rome"], "found a list; expected an object {...} of fields"),
        ("Ann", "found the text 'Ann'; expected an object {...} of fields"),
    ],
)
def test_a_wrong_row_is_named_with_its_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, "edits.jsonl", "\n" + lines(GOOD, row))
    assert refusal(path).startswith(f"{path}, line 3, {message}")
    path = write(tmp_path, "edits.json", json.dumps([GOOD, row], indent=2))
    assert refusal(path).startswith(f"{path}, record 2, {message}")


def test_a_malformed_line(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD) + '{"subject": "Bob"\n')
    assert refusal(path).startswith(f"{path}, line 2, not JSON, column ")
    assert "expected one whole object {...} on the line" in refusal(path)


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ('"target_new": "Bern"', "target_new"),
        ('"paraphrases": [], "paraphrases": ["Ann is in"]', "paraphrases"),
        ('"portability": [{"question": "a?", "answer": "b", "answer": "c"}]', "portability[0].answer"),
        ('"requested_rewrite": {"target_new": {"str": "b", "str": "c"}}', "requested_rewrite.target_new.str"),
    ],
)
def test_a_name_that_stands_twice_in_an_object(tmp_path: Path, more: str, place: str) -> None:
    """The last one would count, and nobody be told."""
    row = f"{json.dumps(GOOD)[:-1]}, {more}}}"
    said = f"field {place}: occurs twice; keep one"
    path = write(tmp_path, "edits.jsonl", f"{lines(GOOD)}{row}\n")
    assert refusal(path) == f"{path}, line 2, {said}"
    assert len(read_edits(path, keep_going=True).edits) == 1
    path = write(tmp_path, "edits.json", f"[{json.dumps(GOOD)}, {row}]")
    assert refusal(path) == f"{path}, record 2, {said}"
    path = write(tmp_path, "edits.json", row)
    assert refusal(path) == f"{path}, record 1, {said}"


def test_the_line_of_a_table_row_after_a_cell_of_two_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.csv", HEADER + 'Ann,"{} lives\nin",Oslo,Rome\n\nBob,lives in,Oslo,Rome\n')
    assert refusal(path).startswith(f"{path}, line 5, field prompt: ")


@pytest.mark.parametrize("row, cells", [("Bob,{} is in,Oslo,Rome,\n", 5), ("Bob,{} is in,Rome\n", 3)])
def test_a_row_of_other_length_than_the_header(tmp_path: Path, row: str, cells: int) -> None:
    path = write(tmp_path, "edits.csv", HEADER + ROW + row)
    assert refusal(path).startswith(f"{path}, line 3, found {cells} cells; expected 4, one for each column")


def test_a_quote_out_of_place(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.csv", HEADER + '"Ann" B,{} is in,Oslo,Rome\n' + ROW)
    assert "line 2, not a row of a table: ',' expected after '\"'; close the quotes" in refusal(path)
    assert [edit.id for edit in read_edits(path, keep_going=True).edits] == ["row-3"]


def test_an_id_given_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD | {"id": 5}, GOOD | {"id": "5", "subject": "Bob"}))
    assert refusal(path) == f"{path}, line 2, field id: '5' is the id of line 1 too; give it another"


def test_two_rows_that_edit_one_fact_to_different_targets(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.json", json.dumps([GOOD, GOOD, GOOD | {"target_new": "Bern"}]))
    found = "'Ann lives in' is edited to 'Bern' here and to 'Rome' in record 2; keep one of the two"
    assert refusal(path) == f"{path}, record 3, field target_new: {found}"


def test_conflicts_may_be_allowed_but_not_an_id_given_twice(tmp_path: Path) -> None:
    other = GOOD | {"target_new": "Bern"}
    path = write(tmp_path, "edits.json", json.dumps([GOOD, other]))
    assert [edit.target_new for edit in read_edits(path, allow_conflicts=True).edits] == ["Rome", "Bern"]
    path = write(tmp_path, "edits.json", json.dumps([GOOD | {"id": "a"}, other | {"id": "a"}]))
    with pytest.raises(EditFileError, match="is the id of record 1 too"):
        read_edits(path, allow_conflicts=True)


def test_one_fault_is_shown_and_the_others_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD | {"subject": 1, "target_new": 2}, GOOD, {}))
    assert refusal(path).endswith(
        "line 1, field subject: found the number 1; expected text (4 more such faults in the file)"
    )


def test_keep_going_skips_and_reports_the_wrong_rows(tmp_path: Path) -> None:
    rows = [{"subject": "Ann"}, GOOD, GOOD | {"prompt": "in"}, GOOD | {"subject": "Bob"}]
    read = read_edits(write(tmp_path, "edits.jsonl", lines(*rows) + "oops\n"), keep_going=True)
    assert [edit.id for edit in read.edits] == ["row-2", "row-4"]
    assert [(problem.row, problem.fault.field) for problem in read.problems] == [
        (1, "prompt"),
        (1, "target_new"),
        (3, "prompt"),
        (5, ""),
    ]


def json_rows() -> st.SearchStrategy[object]:
    """Rows with the right names and any values."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    ids = st.sampled_from(["Q1", "P54", "{}", "{} is"])
    inner = st.sampled_from(["str", "id", "prompt", "subject", "target_new", "relation_id", "New Answer"])
    values = st.recursive(
        scalars | ids, lambda some: st.lists(some, max_size=2) | st.dictionaries(inner, some), max_leaves=4
    )
    fields = st.sampled_from([*FIELDS, "case_id", "requested_rewrite", "paraphrase_prompts", "other"])
    return st.dictionaries(fields, values, max_size=6) | values


@given(st.lists(json_rows(), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_the_error_is_ours(tmp_path: Path, rows: list[object]) -> None:
    path = write(tmp_path, "edits.json", json.dumps([GOOD, *rows]))
    try:
        assert len(read_edits(path).edits) == len(rows) + 1
    except EditFileError:
        assert read_edits(path, keep_going=True).problems


def test_keep_going_needs_one_good_row(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD | {"subject": 1}, GOOD | {"prompt": "in"}))
    message = refusal(path, keep_going=True).splitlines()
    assert message[0] == "no row can be used:"
    assert [line.split(":")[0] for line in message[1:]] == [
        f"{path}, line 1, field subject",
        f"{path}, line 2, field prompt",
    ]
