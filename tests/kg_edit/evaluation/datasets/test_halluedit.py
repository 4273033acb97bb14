from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset, guess_dataset
from kg_edit.evaluation.template_probes import with_probes
from tests.kg_edit.evaluation.datasets.rows import HALLUEDIT, QAEDIT, written

BENCH = find_dataset("halluedit")


def test_wrong_answer_is_edited_to_the_object(tmp_path: Path) -> None:
    (record,) = BENCH(written(tmp_path, HALLUEDIT))
    (edit,) = record.edits
    assert (edit.prompt, edit.subject) == ("Into which river does the {} flow?", "Saale")
    assert (edit.target_true, edit.target_new, edit.relation) == ("Rhine", "Elbe", "mouth of the watercourse")
    assert edit.paraphrases == ("Which river takes up the Saale?",)


def test_each_form_of_question_is_a_probe(tmp_path: Path) -> None:
    (record,) = BENCH(written(tmp_path, HALLUEDIT))
    yes, no = (probe.queries[0] for probe in record.group("fact-check"))
    assert (yes.answers, yes.others, no.answers, no.others) == ((("Yes",),), ("No",), (("No",),), ("Yes",))
    (choice,) = record.group("multiple-choice")[0].queries
    assert choice.prompt == "Into which river does the Saale flow? A. Rhine  B. Elbe  C. Oder"
    assert (choice.answers, choice.others) == ((("B",),), ("A", "C"))
    assert [probe.measures for probe in record.group("portability")] == ["portability.2_hops", "portability.3_hops"]
    assert record.group("reversed")[0].queries[0].answers == (("Saale",),)
    assert record.group("locality-text")[0].queries[0].answers == ()


def test_own_questions_take_the_place_of_templates(tmp_path: Path) -> None:
    (record,) = BENCH(written(tmp_path, HALLUEDIT))
    probed = with_probes(record, ["fact-check", "refutation"])
    assert probed.group("fact-check") == record.group("fact-check") and probed.group("refutation")


def test_published_table_is_the_same_records(tmp_path: Path) -> None:
    """Its cells are quoted where they need it, and a missing question is an empty cell."""
    rows = [HALLUEDIT, {**HALLUEDIT, "question_3hop": "", "answer_3hop": "", "topic": 'of "rivers", long\nones'}]
    table = tmp_path / "places_river.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, HALLUEDIT)
        writer.writeheader()
        writer.writerows(rows)
    assert BENCH(table) == BENCH(written(tmp_path, *rows))
    assert guess_dataset(table) is BENCH
    table.write_text(table.read_text() + "a,b\n")
    with pytest.raises(EditFileError, match="record 3, found 2 cells; expected 19, one for each column"):
        BENCH(table)
    table.write_text(",subject,object,question\n0,Saale,Elbe,Into which river does the Saale flow?\n")
    with pytest.raises(EditFileError, match="record 1, found '0' in a column without a name; name the column"):
        BENCH(table)


def test_ids_of_two_sources_are_different(tmp_path: Path) -> None:
    first, second = find_dataset("qaedit")(written(tmp_path, QAEDIT, {**QAEDIT, "source": "TQA"}))
    assert (first.id, second.id) == ("NQ-12", "TQA-12")
    assert (first.edits[0].prompt, first.edits[0].target_new) == ("who built the tower of {}", "Ada Byron")
    answers = [probe.queries[0].answers for probe in first.group("locality")]
    assert answers == [(("Mark Ruffalo",),), (("Ada Byron",),)]


@pytest.mark.slow
def test_published_rows_are_read(shared: Path) -> None:
    """Each row of HalluEditBench has two yes/no questions, five of several hops and one each of the other forms."""
    records = BENCH(shared / "halluedit" / "llama_2_7b_chat_hf.jsonl")
    assert len(records) == 1137
    assert {len(record.probes) for record in records} == {2 + 2 + 1 + 1 + 5 + 1}
    assert all(record.edits[0].target_true for record in records)
    qaedit = find_dataset("qaedit")(shared / "qaedit" / "qaedit_1k.jsonl")
    assert (len(qaedit), {len(record.group("locality")) for record in qaedit}) == (504, {5})
