"""WikiBio hallucinations: each inaccurate sentence is an edit, each accurate one is asked once; rows as published."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.datasets import find_dataset
from kg_edit.errors import EditFileError
from kg_edit.text.matching import sentences
from tests.kg_edit.datasets.rows import WIKIBIO, written

WIKIBIO_SET = find_dataset("wikibio")
HEADER = "This is a Wikipedia passage about ada byron."


def test_an_inaccurate_sentence_is_edited_towards_the_true_one(tmp_path: Path) -> None:
    (record,) = WIKIBIO_SET(written(tmp_path, WIKIBIO))
    (edit,) = record.edits
    assert edit.text == f"{HEADER} Ada Byron was a poet."
    assert edit.subject == "ada byron"
    assert (edit.target_new, edit.target_true) == ("She wrote notes on an engine.", "Rome saw plays.")
    (asked,) = record.group("hallucination")[0].queries
    assert (asked.prompt, asked.form, asked.others) == (edit.text, "sentence", ("Rome saw plays.",))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ada Byron born in 1815. She wrote notes.", "ada byron"),
        ("J. R. Byron. He won a prize, and was a poet.", "j. r. byron"),
    ],
)
def test_a_name_ends_with_its_sentence(text: str, name: str, tmp_path: Path) -> None:
    (record,) = WIKIBIO_SET(written(tmp_path, {**WIKIBIO, "wiki_bio_text": text}))
    assert record.edits[0].subject == name


def test_accurate_sentences_stand_after_what_gpt3_wrote_before_them(tmp_path: Path) -> None:
    (record,) = WIKIBIO_SET(written(tmp_path, WIKIBIO))
    asked = [query for probe in record.group("accurate") for query in probe.queries]
    assert [(query.prompt, query.answers[0][0]) for query in asked] == [
        (HEADER, "Ada Byron was a poet."),
        (f"{HEADER} Ada Byron was a poet. Rome saw plays.", "She died in 1852."),
    ]


def test_each_accurate_sentence_is_asked_once_also_of_passages_without_an_edit(tmp_path: Path) -> None:
    """Two inaccurate sentences in the first passage, none in the second; one in the third, none in the last."""
    first = {**WIKIBIO, "annotation": ["minor_inaccurate", "major_inaccurate", "accurate"]}
    right = {**WIKIBIO, "annotation": ["accurate"] * 3, "concept": "Ada Lovelace"}
    records = WIKIBIO_SET(written(tmp_path, first, right, WIKIBIO, right))
    assert len({record.id for record in records}) == len(records) == 3
    assert [len(record.group("accurate")) for record in records] == [1, 0, 3 + 2 + 3]
    assert records[2].group("accurate")[0].queries[0].prompt == "This is a Wikipedia passage about Ada Lovelace."


def test_the_last_true_sentence_stands_in_for_those_that_are_missing(tmp_path: Path) -> None:
    row = {**WIKIBIO, "annotation": ["accurate", "accurate", "major_inaccurate"]}
    (record,) = WIKIBIO_SET(written(tmp_path, row))
    assert record.edits[0].target_new == "She wrote notes on an engine."


def test_a_sentence_that_is_the_true_one_has_no_rival(tmp_path: Path) -> None:
    row = {**WIKIBIO, "gpt3_sentences": ["x y.", "She wrote notes on an engine.", "z."]}
    (record,) = WIKIBIO_SET(written(tmp_path, row))
    assert record.edits[0].target_true is None and record.remarks[0].kind == "same-target"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"annotation": ["accurate", "major_inaccurate"]}, "field annotation: expected a list as long as"),
        ({"annotation": "accurate"}, "field annotation"),
        ({"annotation": ["accurate", "wrong", "accurate"]}, "field annotation"),
        ({"annotation": ["accurate"] * 3}, "field annotation: .* one to be edited"),
        ({"gpt3_sentences": []}, "field gpt3_sentences"),
        ({"wiki_bio_text": None}, "field wiki_bio_text"),
    ],
)
def test_a_row_that_is_none(change: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match=said):
        WIKIBIO_SET(written(tmp_path, {**WIKIBIO, **change}))


def test_sentences() -> None:
    assert list(sentences("He was born in St. Louis. He died! Then? ")) == [
        "He was born in St. Louis.",
        "He died!",
        "Then?",
    ]
    assert list(sentences(" ")) == []
