"""WikiBio hallucinations: each inaccurate sentence is an edit, each accurate one is asked once; rows as published."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.evaluation.datasets import find_dataset
from tests.kg_edit.evaluation.datasets.rows import WIKIBIO, written

WIKIBIO_SET = find_dataset("wikibio")
HEADER = "This is a Wikipedia passage about ada byron."


def test_inaccurate_sentence_is_edited_to_the_true_one(tmp_path: Path) -> None:
    (record,) = WIKIBIO_SET(written(tmp_path, WIKIBIO))
    (edit,) = record.edits
    assert edit.text == f"{HEADER} Ada Byron was a poet."
    assert edit.subject == "ada byron"
    assert (edit.target_new, edit.target_true) == ("She wrote notes on an engine.", "Rome saw plays.")
    (query,) = record.group("hallucination")[0].queries
    assert (query.prompt, query.form, query.others) == (edit.text, "sentence", ("Rome saw plays.",))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ada Byron born in 1815. She wrote notes.", "ada byron"),
        ("J. R. Byron. He won a prize, and was a poet.", "j. r. byron"),
    ],
)
def test_name_ends_before_verb_or_sentence(text: str, name: str, tmp_path: Path) -> None:
    (record,) = WIKIBIO_SET(written(tmp_path, {**WIKIBIO, "wiki_bio_text": text}))
    assert record.edits[0].subject == name


def test_accurate_sentence_is_asked_after_the_sentences_before_it(tmp_path: Path) -> None:
    (record,) = WIKIBIO_SET(written(tmp_path, WIKIBIO))
    queries = [query for probe in record.group("accurate") for query in probe.queries]
    assert [(query.prompt, query.answers[0][0]) for query in queries] == [
        (HEADER, "Ada Byron was a poet."),
        (f"{HEADER} Ada Byron was a poet. Rome saw plays.", "She died in 1852."),
    ]


def test_accurate_sentence_is_asked_once_in_the_file(tmp_path: Path) -> None:
    """Two inaccurate sentences in the first passage, none in the second; one in the third, none in the last."""
    first = {**WIKIBIO, "annotation": ["minor_inaccurate", "major_inaccurate", "accurate"]}
    right = {**WIKIBIO, "annotation": ["accurate"] * 3, "concept": "Ada Lovelace"}
    records = WIKIBIO_SET(written(tmp_path, first, right, WIKIBIO, right))
    assert len({record.id for record in records}) == len(records) == 3
    assert [len(record.group("accurate")) for record in records] == [1, 0, 3 + 2 + 3]
    assert records[2].group("accurate")[0].queries[0].prompt == "This is a Wikipedia passage about Ada Lovelace."


def test_last_true_sentence_replaces_missing_ones(tmp_path: Path) -> None:
    row = {**WIKIBIO, "annotation": ["accurate", "accurate", "major_inaccurate"]}
    (record,) = WIKIBIO_SET(written(tmp_path, row))
    assert record.edits[0].target_new == "She wrote notes on an engine."


def test_true_sentence_has_no_old_target(tmp_path: Path) -> None:
    row = {**WIKIBIO, "gpt3_sentences": ["x y.", "She wrote notes on an engine.", "z."]}
    (record,) = WIKIBIO_SET(written(tmp_path, row))
    assert record.edits[0].target_true is None and record.remarks[0].kind == "same-target"
