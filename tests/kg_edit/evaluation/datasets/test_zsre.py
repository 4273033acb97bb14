from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.zsre import parse
from tests.kg_edit.evaluation.datasets.rows import QUESTION, ZSRE, written

EASY_EDIT = {
    "case_id": 4,
    "subject": "Claire Clairmont",
    "prompt": "Who is Claire Clairmont's sister?",
    "target_new": "Marian Clairmont",
    "ground_truth": "Mary Shelley",
    "rephrase_prompt": "Who's Claire Clairmont's sister?",
    "locality_prompt": "who plays the hulk",
    "locality_ground_truth": "Mark Ruffalo",
    "cond": "x",
}


def test_target_is_true_answer_for_rome_and_alt_for_easyedit(tmp_path: Path) -> None:
    file = written(tmp_path, ZSRE)
    (rome,), (easy) = find_dataset("zsre")(file), find_dataset("zsre-alt")(file)
    (edit,), (other,) = rome.edits, easy[0].edits
    assert (edit.target_new, edit.target_true) == ("Mary Shelley", None)
    assert (other.target_new, other.target_true) == ("Marian Clairmont", "Mary Shelley")
    assert "answers[0], as ROME" in rome.form
    assert "alt, as EasyEdit" in easy[0].form
    assert (edit.prompt, edit.text) == ("Who is {}'s sister?", "Who is Claire Clairmont's sister?")


def test_probes_are_efficacy_paraphrase_and_locality(tmp_path: Path) -> None:
    (record,) = find_dataset("zsre")(written(tmp_path, ZSRE))
    queries = {probe.measures: probe.queries[0] for probe in record.probes}
    assert queries["efficacy"].answers == queries["paraphrase"].answers == (("Mary Shelley",),)
    assert queries["paraphrase"].prompt == "Who's Claire Clairmont's sister?"
    assert queries["locality"].prompt == "nq question: who plays the hulk?"
    assert queries["locality"].answers == (("Mark Ruffalo",),)


@pytest.mark.parametrize(
    ("row", "answer"),
    [(ZSRE, {"loc_ans": " "}), (EASY_EDIT, {"locality_ground_truth": None})],
    ids=["mend", "easyedit"],
)
def test_locality_prompt_without_an_answer_is_compared_with_the_unedited_model(
    row: dict[str, object], answer: dict[str, object]
) -> None:
    record = parse({**row, **answer}, "0")
    (probe,) = record.group("locality-text")
    assert "who plays the hulk" in probe.queries[0].prompt and not probe.queries[0].answers
    assert not record.group("locality")


def test_portability_is_asked_only_with_alt() -> None:
    row = {**ZSRE, "inverse question": "Who is Marian Clairmont's sister?", "portability": QUESTION}
    alt, rome = parse(row, "0", towards="alt"), parse(row, "0")
    assert alt.group("portability.Inverse_Relation")[0].queries[0].answers == (("Claire Clairmont",),)
    assert alt.edits[0].portability[0].answer == "Florida"
    assert not rome.group("portability")
    assert not rome.edits[0].portability


def test_subject_replace_has_the_target_as_answer() -> None:
    row = {**ZSRE, "alternative_subject": "Clara", "alter_subject_question": "Who is Clara's sister?"}
    (probe,) = parse(row, "0").group("portability.Subject_Replace")
    assert probe.queries[0].answers == (("Mary Shelley",),)


def test_old_target_equal_to_new_one_gives_a_remark() -> None:
    record = parse({**ZSRE, "alt": "mary shelley"}, "0", towards="alt")
    assert record.edits[0].target_true is None
    assert [remark.kind for remark in record.remarks] == ["same-target"]


def test_easyedit_form_has_its_own_target(tmp_path: Path) -> None:
    (record,) = find_dataset("zsre")(written(tmp_path, EASY_EDIT))
    assert (record.id, record.edits[0].target_new) == ("4", "Marian Clairmont")
    assert {probe.measures for probe in record.probes} == {"efficacy", "paraphrase", "locality"}


def test_absent_subject_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, {**ZSRE, "subject": "Claire"}, {**ZSRE, "subject": "Isabel of Coimbra"})
    with pytest.raises(EditFileError, match="record 2, field src: the subject 'Isabel of Coimbra' does not occur in"):
        find_dataset("zsre")(file)
    reading = find_dataset("zsre").read(file)
    assert [record.id for record in reading.records] == ["row-1"]
    assert [(problem.row, problem.id) for problem in reading.problems] == [(2, "row-2")]


@pytest.mark.parametrize(
    ("part", "rows", "usable"), [("mend_eval_portability_gpt4", 1037, 1037), ("inverse_relation", 385, 380)]
)
def test_published_rows_are_read(part: str, rows: int, usable: int, shared: Path) -> None:
    reading = find_dataset("zsre-alt").read(shared / "zsre" / f"zsre_{part}.json")
    assert (len(reading.records) + len(reading.problems), len(reading.records)) == (rows, usable)
    assert all(record.edits[0].portability or record.group("portability") for record in reading.records)
