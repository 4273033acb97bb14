from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import BenchmarkRecord, find_dataset
from tests.kg_edit.evaluation.datasets.rows import MQUAKE, MQUAKE_REMASTERED, written


def read(folder: Path, *rows: dict[str, Any]) -> tuple[BenchmarkRecord, ...]:
    return find_dataset("mquake")(written(folder, *rows))


def test_case_has_all_its_edits(tmp_path: Path) -> None:
    (record,) = read(tmp_path, MQUAKE)
    assert [(edit.id, edit.subject_id, edit.relation_id, edit.target_new_id) for edit in record.edits] == [
        ("2.0", "Q596874", "P50", "Q44461"),
        ("2.1", "Q44461", "P27", "Q419"),
    ]
    assert [edit.target_true for edit in record.edits] == ["Stephen King", "United Kingdom"]
    assert record.chain == (("Q596874", "P50", "Q39829"), ("Q39829", "P27", "Q30"))
    assert record.new_chain[1] == ("Q44461", "P27", "Q419")


def test_subject_ids_follow_the_order_of_triples(tmp_path: Path) -> None:
    """Both become citizens of Peru, so relation and object alone don't tell whose triple is whose."""
    second = MQUAKE["requested_rewrite"][1]
    rewrites = [second, {**second, "subject": "Stephen King"}]
    triples = [["Q44461", "P27", "Q419"], ["Q39829", "P27", "Q419"]]
    row = {**MQUAKE, "requested_rewrite": rewrites, "orig": {**MQUAKE["orig"], "edit_triples": triples}}
    (record,) = read(tmp_path, row)
    assert [(edit.subject, edit.subject_id) for edit in record.edits] == [
        ("Richard Dawkins", "Q44461"),
        ("Stephen King", "Q39829"),
    ]
    (fewer,) = read(tmp_path, {**row, "orig": {**MQUAKE["orig"], "edit_triples": triples[:1]}})
    assert [edit.subject_id for edit in fewer.edits] == ["Q44461", None]


def test_single_edit_has_the_id_of_its_case(tmp_path: Path) -> None:
    (record,) = read(tmp_path, {**MQUAKE, "requested_rewrite": MQUAKE["requested_rewrite"][:1]})
    assert (record.id, record.edits[0].id) == ("2", "2")


def test_multihop_passes_with_any_wording(tmp_path: Path) -> None:
    (record,) = read(tmp_path, MQUAKE)
    (probe,) = record.group("multihop")
    assert ([query.prompt for query in probe.queries], probe.passes) == (MQUAKE["questions"], "any")
    assert {query.answers for query in probe.queries} == {(("Peru", "Republic of Peru", "PE"),)}
    assert {query.others for query in probe.queries} == {("United States of America",)}


def test_old_names_exclude_spellings_of_the_new_answer(tmp_path: Path) -> None:
    row = {**MQUAKE, "answer": "U.K.", "answer_alias": ["Britain"], "new_answer": "UK", "new_answer_alias": []}
    (record,) = read(tmp_path, row)
    (query, *_) = record.group("multihop")[0].queries
    assert query.old == ("Britain",)


def test_hops_and_statements_have_aliases(tmp_path: Path) -> None:
    (record,) = read(tmp_path, MQUAKE)
    (hops,) = record.group("hops")
    assert [(query.prompt, query.answers[0]) for query in hops.queries] == [
        ("Who wrote Misery?", ("Richard Dawkins", "Clinton Dawkins")),
        ("Of where is Richard Dawkins?", ("Peru", "Republic of Peru", "PE")),
    ]
    assert hops.passes == "all"
    statements = [probe.queries[0] for probe in record.group("edit")]
    assert [(query.prompt, query.form) for query in statements] == [
        ("The author of Misery is", "sentence"),
        ("Richard Dawkins is a citizen of", "sentence"),
    ]
    assert statements[0].answers == (("Richard Dawkins", "Clinton Dawkins"),)


def test_answer_extended_is_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, {**MQUAKE, "answer_extended": ["US"]}) == read(tmp_path, MQUAKE)


def test_remastered_form_gives_the_same_record(tmp_path: Path) -> None:
    assert read(tmp_path, MQUAKE_REMASTERED) == read(tmp_path, MQUAKE)


def test_fault_inside_an_edit_is_named_by_its_path(tmp_path: Path) -> None:
    bad = json.loads(json.dumps(MQUAKE))
    bad["requested_rewrite"][1]["prompt"] = "is a citizen of"
    bad["orig"]["edit_triples"][0][0] = ""
    with pytest.raises(EditFileError, match=r"record 1, field orig.edit_triples: found an empty text; expected a Wiki"):
        find_dataset("mquake")(written(tmp_path, bad))
    bad["orig"] = MQUAKE["orig"]
    with pytest.raises(EditFileError, match=r"record 1, field requested_rewrite\[1\].prompt: .* has no {}"):
        read(tmp_path, bad)


def test_empty_alias_is_left_out_with_remark(tmp_path: Path) -> None:
    (record,) = read(tmp_path, {**MQUAKE, "new_answer_alias": ["", "PE"]})
    assert record.group("multihop")[0].queries[0].answers == (("Peru", "PE"),)
    assert [remark.kind for remark in record.remarks] == ["empty-answer"]


@pytest.mark.slow
def test_published_cases_are_read(shared: Path) -> None:
    """Hops and edits a case, and three questions each, in the part of CF-3k; the hard set has four edits each."""
    records = find_dataset("mquake")(shared / "mquake" / "MQuAKE-CF-3k.dev.json")
    assert Counter(len(record.new_chain) for record in records) == {2: 515, 3: 493, 4: 478}
    assert Counter(len(record.edits) for record in records) == {1: 555, 2: 544, 3: 264, 4: 123}
    assert sum(len(probe.queries) for record in records for probe in record.group("multihop")) == 3 * 1486
    assert all(edit.subject_id for record in records for edit in record.edits)
    hard = find_dataset("mquake")(shared / "mquake" / "MQuAKE-hard.json")
    assert (len(hard), {len(record.edits) for record in hard}) == (429, {4})
