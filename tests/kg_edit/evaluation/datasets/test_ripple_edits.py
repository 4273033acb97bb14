from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kg_edit.evaluation.datasets import BenchmarkRecord, find_dataset
from kg_edit.evaluation.datasets.ripple_edits import relations
from tests.kg_edit.evaluation.datasets.rows import RIPPLE, written


def read(folder: Path, **change: Any) -> BenchmarkRecord:
    (record,) = find_dataset("ripple-edits")(written(folder, {**RIPPLE, **change}))
    return record


def test_edit_subject_and_targets_are_read_from_sentences(tmp_path: Path) -> None:
    (edit,) = read(tmp_path).edits
    assert (edit.subject, edit.prompt) == ("Ada", "The name of the spouse of {} is")
    assert (edit.target_new, edit.target_true) == ("Bob", "Carl Zell")
    assert (edit.subject_id, edit.relation_id, edit.target_new_id, edit.target_true_id) == ("Q11", "P26", "Q12", "Q13")


def test_recent_fact_has_no_old_target(tmp_path: Path) -> None:
    fact = {field: value for field, value in RIPPLE["edit"].items() if field != "original_fact"}
    assert read(tmp_path, edit=fact).edits[0].target_true is None
    assert read(tmp_path, edit={**fact, "previous_fact": RIPPLE["edit"]["original_fact"]}) == read(tmp_path)


def test_probes_have_queries_and_conditions(tmp_path: Path) -> None:
    record = read(tmp_path)
    (both,) = record.group("ripple.LG")
    assert both.passes == "all"
    assert (both.queries[0].answers, both.queries[0].every) == ((("Ada", "Ada L."), ("Eve",)), True)
    (hop,) = record.group("ripple.CI")
    assert (hop.passes, len(hop.queries), hop.conditions[0].prompt) == ("any", 2, "The place of birth of Bob is")
    assert {probe.measures for probe in record.group("ripple")} == {"ripple.RS", "ripple.LG", "ripple.CI"}


def test_test_without_usable_answer_is_left_out_with_remark(tmp_path: Path) -> None:
    """Names of one letter do not count in the authors' program; X is the only answer here."""
    record = read(tmp_path)
    assert not record.group("ripple.FN")
    assert [remark.kind for remark in record.remarks] == ["empty-answer"]


def test_answer_without_label_is_left_out(tmp_path: Path) -> None:
    (probe,) = read(tmp_path).group("ripple.RS")
    query = RIPPLE["Relation_Specificity"][0]["test_queries"][0]
    bare = {**query, "answers": [*query["answers"], {"value": None, "aliases": []}]}
    record = read(tmp_path, Relation_Specificity=[{"test_queries": [bare], "test_condition": "OR"}])
    assert record.group("ripple.RS") == (probe,)


def test_relation_specificity_is_read_in_both_spellings(tmp_path: Path) -> None:
    other = {name: value for name, value in RIPPLE.items() if name != "Relation_Specificity"}
    file = written(tmp_path, {**other, "Relation_Specifity": RIPPLE["Relation_Specificity"]})
    assert find_dataset("ripple-edits")(file) == (read(tmp_path),)


@pytest.mark.parametrize("name", ["FOLLOWS", "NUMBER_OF_CHILDREN", "MEMBER_OF_SPORTS_TEAM", "SIBLING"])
def test_sentence_of_each_form_is_read(name: str, tmp_path: Path) -> None:
    sentence = relations()[name].template.format("The Who") + " 7 of May."
    (edit,) = read(tmp_path, edit={"prompt": sentence, "relation": name}).edits
    assert (edit.subject, edit.target_new) == ("The Who", "7 of May")


def test_subject_that_has_the_words_of_its_relation_is_read_whole(tmp_path: Path) -> None:
    """The title of a work may have them, the name of its director has not."""
    film = {"prompt": "The name of the director of Life is Beautiful is Eve B. Dodd.", "relation": "DIRECTOR"}
    (edit,) = read(tmp_path, edit=film).edits
    assert (edit.subject, edit.target_new) == ("Life is Beautiful", "Eve B. Dodd")
