"""Files of edits with faults: how many are named, and what `keep_going` makes of the rest."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg_edit.edits.files import read_edits
from kg_edit.edits.rows import FIELDS
from kg_edit.errors import EditFileError
from tests.kg_edit.edit_rows import GOOD, HEADER, ROW, lines, refusal, write


def test_row_with_a_misplaced_quote_takes_no_other_with_it(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.csv", HEADER + '"Ann" B,{} is in,Oslo,Rome\n' + ROW)
    assert [edit.id for edit in read_edits(path, keep_going=True).edits] == ["row-2"]


def test_conflicts_are_allowed_on_request(tmp_path: Path) -> None:
    other = GOOD | {"target_new": "Bern"}
    path = write(tmp_path, "edits.json", json.dumps([GOOD, other]))
    assert [edit.target_new for edit in read_edits(path, allow_conflicts=True).edits] == ["Rome", "Bern"]


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
    assert [(problem.number, problem.fault.field) for problem in read.problems] == [
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
