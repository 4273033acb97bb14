"""Files of edits that can't be used: each fault is named with its line, its field and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg_edit.edits.files import read_edits
from kg_edit.edits.rows import FIELDS
from kg_edit.edits.templates import utf8_text
from kg_edit.errors import EditFileError
from tests.kg_edit.edit_rows import GOOD, HEADER, ROW, lines, refusal, write

# Faults of a file


def test_path_without_file_is_refused(tmp_path: Path) -> None:
    assert "none.jsonl: no such file; check the path (the current folder is" in refusal(tmp_path / "none.jsonl")
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; expected a file; give the path of a file in this folder"
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
def test_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path, name, content)
    assert refusal(path) == f"{path}: has no rows; expected one edit or triplet per row"


def test_invalid_utf8_is_located(tmp_path: Path) -> None:
    content = (HEADER + ROW).encode() + "Zoë,{} lives in,Oslo,Rome\n".encode("latin-1")
    path = write(tmp_path, "edits.csv", content)
    offset = len(HEADER + ROW) + 2
    message = "found the byte 0xeb, which is not UTF-8; save the file as UTF-8"
    assert refusal(path) == f"{path}, line 3, byte offset {offset}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n {"subject": "Ann",}\n]', "edits.json, line 2, column "),
        (
            lines(GOOD, GOOD),
            "line 2, column 1: not JSON: Extra data; expected one list of objects; for one object per line",
        ),
        ("1" * 5000, "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
    ids=["comma", "lines", "long number", "deep"],
)
def test_malformed_json_is_located(tmp_path: Path, content: str, message: str) -> None:
    error = refusal(write(tmp_path, "edits.json", content))
    assert message in error and "not JSON" in error


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
        ("a,prompt,target_new", "line 1: unknown column 'a'; known:"),
        (
            "subject,prompt,target_new,portability",
            "line 1: the column 'portability': questions with answers do not fit",
        ),
        ("subject,prompt,target_new,questions", "line 1: the column 'questions': questions with answers"),
        (
            "Marie Curie,was born in,Rome",
            "line 1: no name of a column ('Marie Curie', …); the first line must be a header",
        ),
        ("subject,prompt,target_new,prompt", "line 1: a column occurs twice in the header: subject, prompt"),
        ('"subject,prompt', "line 1: not a row of a table: unexpected end of data; close the quotes"),
    ],
)
def test_unusable_header_is_refused(tmp_path: Path, header: str, message: str) -> None:
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
        (
            {"subject": "Q1", "relation": "P31", "new_object": "x"},
            "field subject: found the id Q1, for",
        ),
        (
            {
                "case_id": 1,
                "requested_rewrite": {"subject": "Ann", "prompt": "{} is", "target_new": {"str": "x"}},
                "portability": {"New Question": "Who?", "New Answer": "x", "Recalled Relation": "\ud800"},
            },
            r"field portability.Recalled Relation: '\ud800' contains half a surrogate pair",
        ),
        (["Ann", "Rome"], "found a list; expected an object {...} of fields"),
        ("Ann", "found the text 'Ann'; expected an object {...} of fields"),
    ],
)
def test_wrong_row_is_named_with_its_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, "edits.jsonl", "\n" + lines(GOOD, row))
    assert refusal(path).startswith(f"{path}, line 3, {message}")
    path = write(tmp_path, "edits.json", json.dumps([GOOD, row], indent=2))
    assert refusal(path).startswith(f"{path}, record 2, {message}")


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ('"target_new": "Bern"', "target_new"),
        ('"paraphrases": [], "paraphrases": ["Ann is in"]', "paraphrases"),
        ('"portability": [{"question": "a?", "answer": "b", "answer": "c"}]', "portability[0].answer"),
        ('"requested_rewrite": {"target_new": {"str": "b", "str": "c"}}', "requested_rewrite.target_new.str"),
    ],
)
def test_repeated_name_in_an_object_is_refused(tmp_path: Path, more: str, place: str) -> None:
    """JSON itself would silently use the last one."""
    row = f"{json.dumps(GOOD)[:-1]}, {more}}}"
    fault = f"field {place}: occurs twice; keep one"
    path = write(tmp_path, "edits.jsonl", f"{lines(GOOD)}{row}\n")
    assert refusal(path) == f"{path}, line 2, {fault}"
    assert len(read_edits(path, keep_going=True).edits) == 1
    path = write(tmp_path, "edits.json", f"[{json.dumps(GOOD)}, {row}]")
    assert refusal(path) == f"{path}, record 2, {fault}"
    path = write(tmp_path, "edits.json", row)
    assert refusal(path) == f"{path}, record 1, {fault}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("edits.jsonl", lines(GOOD) + '{"subject": "Bob"\n', "line 2, not JSON, column "),
        ("edits.csv", HEADER + 'Ann,"{} lives\nin",Oslo,Rome\n\nBob,lives in,Oslo,Rome\n', "line 5, field prompt: "),
        (
            "edits.csv",
            HEADER + ROW + "Bob,{} is in,Oslo,Rome,\n",
            "line 3, found 5 cells; expected 4, one for each column",
        ),
        ("edits.csv", HEADER + ROW + "Bob,{} is in,Rome\n", "line 3, found 3 cells; expected 4, one for each column"),
        (
            "edits.jsonl",
            lines(GOOD | {"id": 5}, GOOD | {"id": "5", "subject": "Bob"}),
            "line 2, field id: '5' is the id of line 1 too; give it another",
        ),
        (
            "edits.json",
            json.dumps([GOOD, GOOD, GOOD | {"target_new": "Bern"}]),
            "record 3, field target_new: 'Ann lives in' is edited to 'Bern' here and to 'Rome' in record 2; keep",
        ),
    ],
)
def test_faulty_row_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path, name, content)
    assert refusal(path).startswith(f"{path}, {message}")


def test_misplaced_quote_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.csv", HEADER + '"Ann" B,{} is in,Oslo,Rome\n' + ROW)
    assert "line 2, not a row of a table: ',' expected after '\"'; close the quotes" in refusal(path)
    assert [edit.id for edit in read_edits(path, keep_going=True).edits] == ["row-2"]


def test_allow_conflicts_still_refuses_duplicated_ids(tmp_path: Path) -> None:
    other = GOOD | {"target_new": "Bern"}
    path = write(tmp_path, "edits.json", json.dumps([GOOD, other]))
    assert [edit.target_new for edit in read_edits(path, allow_conflicts=True).edits] == ["Rome", "Bern"]
    path = write(tmp_path, "edits.json", json.dumps([GOOD | {"id": "a"}, other | {"id": "a"}]))
    with pytest.raises(EditFileError, match="is the id of record 1 too"):
        read_edits(path, allow_conflicts=True)


def test_first_five_faults_are_listed_with_their_lines(tmp_path: Path) -> None:
    """Of whatever kind: the target that is the old one, and two rows that contradict each other."""
    same = {**GOOD, "target_true": GOOD["target_new"]}
    path = write(tmp_path, "edits.jsonl", lines(same, GOOD, {**GOOD, "target_new": "Bern"}))
    first, second = refusal(path).splitlines()
    assert first.startswith(f"{path}, line 1, field target_new: 'Rome' is also the old target")
    assert second.startswith(f"{path}, line 3, field target_new: 'Ann lives in' is edited to 'Bern' here")
    path = write(tmp_path, "edits.jsonl", lines(*[{**GOOD, "subject": number} for number in range(7)]))
    *listed, more = refusal(path).splitlines()
    assert [line.split(", ")[1] for line in listed] == [f"line {number}" for number in range(1, 6)]
    assert more == "and 2 more"


def test_keep_going_reports_wrong_rows(tmp_path: Path) -> None:
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
        scalars | ids, lambda children: st.lists(children, max_size=2) | st.dictionaries(inner, children), max_leaves=4
    )
    fields = st.sampled_from([*FIELDS, "case_id", "requested_rewrite", "paraphrase_prompts", "other"])
    return st.dictionaries(fields, values, max_size=6) | values


@given(st.lists(json_rows(), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_read_or_refused(tmp_path: Path, rows: list[object]) -> None:
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


def test_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg_common.rows._LARGEST", 1_000_000)
    with pytest.raises(EditFileError, match="at most 1 MB are read"):
        utf8_text(Path("/dev/zero"))
