"""A Ripples file from a toy graph, for one's own edits, and from the packaged graph with the real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.lint import lint
from kg_edit.evaluation.ripples.build import Builder, write_ripples
from kg_edit.evaluation.ripples.edits import Change
from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.questions import Proposal, propose
from kg_edit.evaluation.ripples.words import RippleWords
from kg_edit.models.language_model import LanguageModel
from tests.everyday import keep_first
from tests.kg_edit.evaluation.ripples import toy
from tests.kg_edit.evaluation.ripples.toy import table_of
from tests.kg_edit.tiny import tiny
from wikidata_cache import WikidataCache, packaged_extract

MINE = Edit(
    id="mine",
    subject="Rome",
    prompt="{} lies in the country of",
    target_true="Italy",
    target_new="Japan",
    subject_id="Q1",
    relation_id="P17",
    target_true_id="Q11",
    target_new_id="Q12",
)


def fields_of(proposal: Proposal) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    return proposal.kind, proposal.start, proposal.hops, proposal.answers


def test_proposals_are_all_kinds_of_an_edit(tmp_path: Path) -> None:
    """Rome moves to Japan: the questions by hand from the toy graph."""
    change = Change("Q1", "P17", "Q11", "Q12", "test")
    offered = list(propose(table_of(tmp_path), change, neighbours=["Q2"]))
    complete = [fields_of(proposal) for proposal in offered if not proposal.lacks]
    assert complete == [
        ("two-hop", "Rome", ("P17", "P36"), ("Tokyo",)),
        ("two-hop", "Rome", ("P17", "P30"), ("Asia",)),
        ("alias", "Eternal City", ("P17",), ("Japan", "JP")),
        ("old-object", "Italy", ("P30",), ("Europe",)),
        ("new-object", "Japan", ("P36",), ("Tokyo",)),
        ("new-object", "Japan", ("P30",), ("Asia",)),
        ("same-object", "Milan", ("P17",), ("Italy",)),
    ]  # no three hops: from Tokyo the way leads back to Japan, or to Japan's own continent
    hop = next(proposal for proposal in offered if proposal.kind == "two-hop")
    assert (hop.old, [fact.object for fact in hop.knows]) == (("Rome", "Eternal City"), ["Tokyo"])
    assert next(proposal for proposal in offered if proposal.lacks).lacks == hop.knows


def test_a_subject_without_its_id_is_no_neighbour_of_itself(tmp_path: Path) -> None:
    change = Change("", "P17", "Q11", "Q12", "test")
    offered = propose(table_of(tmp_path), change, neighbours=["Q1", "Q2"], name="the eternal city")
    assert [proposal.start for proposal in offered if proposal.kind == "same-object"] == ["Milan"]


def test_answers_that_were_right_before_are_no_questions(tmp_path: Path) -> None:
    """Osaka has no continent of its own; its country's is that of Tokyo. The current old answer comes first."""
    table = table_of(tmp_path)
    hops = [p.hops for p in propose(table, Change("", "P159", "Q3", "Q21", "test"), neighbours=(), name="Sony")]
    assert ("P159", "P30") not in hops
    (moved, _) = [
        proposal
        for proposal in propose(table, Change("", "P159", "Q1", "Q21", "test"), neighbours=(), name="Sony")
        if proposal.hops == ("P159", "P17")
    ]
    assert moved.old[:2] == ("Italy", "Papal States")


def test_build_for_takes_an_old_object_that_is_not_given_from_the_graph(tmp_path: Path) -> None:
    builder = Builder(model=tiny("llama"), table=table_of(tmp_path), folder=tmp_path / "known")
    bare = MINE.model_copy(update={"target_true": None, "target_true_id": None})
    (row,), (full_row,) = (builder.build_for([edit])["records"] for edit in (bare, MINE))
    assert row["questions"] == full_row["questions"] and "Rome" in row["questions"][0]["old"]


def test_description_excludes_successors(tmp_path: Path) -> None:
    """Rome lay in the Papal States: today "the country of Rome" is Italy, which this edit does not change."""
    change = Change("Q13", "P30", "Q32", "Q31", "test")
    offered = list(propose(table_of(tmp_path), change, neighbours=()))
    assert not [p for p in offered if p.kind == "description"]
    now = list(propose(table_of(tmp_path), Change("Q11", "P30", "Q32", "Q31", "test"), neighbours=()))
    assert {(p.start, p.hops) for p in now if p.kind == "description"} >= {("Milan", ("P17", "P30"))}


def test_build_for_gives_unknown_questions(tmp_path: Path) -> None:
    """A tiny random model knows nothing: what is left are the hops that it does not know."""
    builder = Builder(model=tiny("llama"), table=table_of(tmp_path), folder=tmp_path / "known")
    content = builder.build_for([MINE, MINE.model_copy(update={"id": "bare", "relation_id": None})])
    (row,) = content["records"]
    assert content["provenance"]["dropped"]["edit without relation_id"] == 1
    assert list(content["provenance"]["examples"]) == ["P17", "P36"]  # sorted: the same file under any PYTHONHASHSEED
    assert {question["kind"] for question in row["questions"]} <= {"two-hop"}
    assert all(not question["known"] for question in row["questions"])
    file = write_ripples(tmp_path / "mine.json", content)
    reading = find_dataset("ripples").read(file)
    assert not reading.problems
    assert not lint(reading)
    (edit,) = reading.records[0].edits
    assert edit == MINE.model_copy(update={"neighborhood": edit.neighborhood, "paraphrases": edit.paraphrases})
    assert json.loads(file.read_text())["provenance"]["graph"] == content["provenance"]["graph"]


def test_aliases_of_two_answers_with_one_label_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capitals of Japan and of Peru have one label; Cuba's is the third example of a capital."""
    monkeypatch.setattr(toy, "LABELS", {**toy.LABELS, "Q24": "Tokyo", "Q17": "Cuba", "Q25": "Havana"})
    cuba = (("Q17", "P31", "Q6256"), ("Q25", "P31", "Q515"), ("Q25", "P17", "Q17"), ("Q17", "P36", "Q25"))
    monkeypatch.setattr(toy, "FACTS", [*toy.FACTS, *cuba])
    monkeypatch.setattr(toy, "ALIASES", [*toy.ALIASES, ("Q21", "Yedo"), ("Q24", "City of Kings")])
    peru = {"id": "peru", "subject": "Milan", "subject_id": "Q2", "target_new": "Peru", "target_new_id": "Q16"}
    builder = Builder(model=tiny("llama"), table=table_of(tmp_path), folder=tmp_path / "known")
    content = builder.build_for([MINE, MINE.model_copy(update=peru)])
    assert sorted(content["aliases"]["Tokyo"]) == ["City of Kings", "Yedo"]


@pytest.mark.parametrize("lacking", ["target_true_id", "subject_id"])
@pytest.mark.parametrize("instead", keep_first([None, "Q77777"]))
def test_build_for_needs_only_ids_of_relation_and_target(lacking: str, instead: str | None, tmp_path: Path) -> None:
    """Only r and o* have to be in the graph."""
    builder = Builder(model=tiny("llama"), table=table_of(tmp_path), folder=tmp_path / "known")
    strange = MINE.model_copy(update={"id": "strange", "target_new_id": "Q77777"})
    content = builder.build_for([MINE.model_copy(update={lacking: instead}), strange])
    (row,) = content["records"]
    assert [question["start"] for question in row["questions"] if question["kind"] == "two-hop"] == ["Rome"]
    assert content["provenance"]["dropped"]["edit whose target_new_id is not in the graph"] == 1
    assert not find_dataset("ripples").read(write_ripples(tmp_path / "mine.json", content)).problems


def test_inverse_question_has_the_edits_own_name(tmp_path: Path) -> None:
    offered = list(propose(table_of(tmp_path), Change("", "P36", "", "Q21", "test"), neighbours=(), name="Atlantis"))
    assert [fields_of(p) for p in offered if p.kind == "inverse"] == [("inverse", "Tokyo", ("-P36",), ("Atlantis",))]


@pytest.mark.slow
def test_build_with_a_real_model_and_the_packaged_graph(tmp_path: Path) -> None:
    model = LanguageModel.load("smollm2-135m")
    table = FactTable(WikidataCache(packaged_extract()), RippleWords.load())
    content = Builder(model=model, table=table, folder=tmp_path / "known").build(["P17", "P159"], n=12)
    records = find_dataset("ripples")(write_ripples(tmp_path / "r.json", content))
    assert len(records) == 12
    assert sum(len(record.group("ripples-known")) for record in records) >= 12
    assert len({record.edits[0].subject for record in records}) == 12
