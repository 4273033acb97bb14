"""Which questions are selected when only known hops count, by what a parrot generates."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.ripples.known_only import KnownOnly, known_only
from kg_edit.evaluation.ripples.words import RippleWords
from tests.everyday import keep_first
from tests.kg_edit.evaluation.datasets.rows import AKEW, MQUAKE, RIPPLE, RIPPLES, written
from tests.kg_edit.evaluation.parrot import parrot


def read(name: str, folder: Path, row: dict[str, object]) -> BenchmarkRecord:
    (record,) = find_dataset(name)(written(folder, row))
    return record


def filtered(folder: Path, text: str, records: list[BenchmarkRecord]) -> KnownOnly:
    """What is left with a model that generates one text; each such model has a folder of its own."""
    return known_only(parrot(text, "x"), records, folder=folder / text)


def test_known_only_uses_condition_queries(tmp_path: Path) -> None:
    record = read("ripple-edits", tmp_path, RIPPLE)
    knowing, other = filtered(tmp_path, "Rome", [record]), filtered(tmp_path, "Oslo", [record])
    assert [len(kept.records[0].group("ripple.CI")) for kept in (knowing, other)] == [1, 0]
    assert (knowing.total - knowing.questions, other.total - other.questions) == (0, 1)
    assert other.records[0].group("efficacy"), "a probe without hops is selected"


@pytest.mark.parametrize(("name", "row"), keep_first([("mquake", MQUAKE), ("akew", AKEW)], unpack=True))
def test_known_only_uses_unedited_hops(name: str, row: dict[str, object], tmp_path: Path) -> None:
    """Both hops are edited: nothing need be known. With the first edit alone the second hop must be."""
    record = read(name, tmp_path, row)
    assert filtered(tmp_path, "Nowhere", [record]).questions == 1
    second = record.group("edit")[1]
    first = record.model_copy(update={"probes": tuple(probe for probe in record.probes if probe != second)})
    needed = second.queries[0].answers[0][0]
    assert filtered(tmp_path, "Nowhere", [first]).records == ()
    assert filtered(tmp_path, needed, [first]).questions == 1


@pytest.mark.parametrize(("text", "left"), [("Italy", 1), ("Peru", 0)])
def test_known_only_uses_the_recalled_relation(tmp_path: Path, text: str, left: int) -> None:
    question = Question(question="Where?", answer="Italy", recalled_relation="(Rome, capital of, Italy)")
    edit = Edit(id="1", subject="Ada", prompt="{} lives in", target_new="Rome", portability=(question,))
    kept = filtered(tmp_path, text, [BenchmarkRecord(id="1", edits=(edit,))])
    assert (kept.questions, kept.total, len(kept.records)) == (left, 1, left)
    again = known_only(parrot("something else", "x"), kept.records, folder=tmp_path / text)
    assert again.questions == left, "the answers are stored: nothing was asked again"
    assert str(kept) == f"{left} of 1 questions are left, in {left} records"


@pytest.mark.slow
def test_known_only_asks_until_enough_records_are_left(tmp_path: Path) -> None:
    """The first 17 records are unknown: a pass about 16, and then about as many again."""
    records = [
        BenchmarkRecord(id=str(number), edits=(edit,))
        for number in range(60)
        for place in ("Peru" if number < 17 else "Italy",)
        for question in (Question(question="Where?", answer=place, recalled_relation=f"({number}, in, {place})"),)
        for edit in (
            Edit(id=str(number), subject="Ada", prompt="{} lives in", target_new="x", portability=(question,)),
        )
    ]
    part = known_only(parrot("Italy", "x"), records, folder=tmp_path, most=3)
    assert (part.total, [record.id for record in part.records[:3]]) == (32, ["17", "18", "19"])
    complete = known_only(parrot("Italy", "x"), records, folder=tmp_path)
    assert (complete.total, len(complete.records)) == (60, 43) and complete.records[:15] == part.records


def test_known_only_reads_its_forms_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load = list[RippleWords](), RippleWords.load

    def counted() -> RippleWords:
        loaded.append(load())
        return loaded[-1]

    monkeypatch.setattr(RippleWords, "load", counted)
    question = Question(question="Where?", answer="Italy", recalled_relation="(Rome, capital of, Italy)")
    edit = Edit(id="1", subject="Ada", prompt="{} lives in", target_new="Rome", portability=(question,) * 3)
    assert filtered(tmp_path, "Italy", [BenchmarkRecord(id="1", edits=(edit,))]).total == 3
    assert len(loaded) <= 1, "not once for each question"


def test_known_only_leaves_out_unknown_ripples(tmp_path: Path) -> None:
    record = read("ripples", tmp_path, RIPPLES)
    unknown = Probe(measures="ripples-unknown.stated", queries=(Query(prompt="Which?", answers=(("x",),)),))
    both = record.model_copy(update={"probes": (*record.probes, unknown)})
    kept = filtered(tmp_path, "Rome", [both])
    assert kept.records == (record,)
    assert (kept.questions, kept.total) == (1, 2)
