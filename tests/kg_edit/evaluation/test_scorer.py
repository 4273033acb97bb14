"""Real records of every kind on a tiny model: what a section has, before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import Probe, Query
from kg_edit.evaluation.case import Case, make_ceiling_cases
from kg_edit.evaluation.datasets import BenchmarkRecord, find_dataset
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.evaluation.metrics.catalogue import requests_of
from kg_edit.evaluation.records import Section
from kg_edit.evaluation.scorer import UneditedScores, score_cases
from kg_edit.evaluation.template_probes import with_probes
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.questions import collect_answers, draw_choices, fact_sentence
from kg_edit.scoring.requests import ANSWER_TOKENS, LIST_TOKENS
from tests.everyday import keep_first
from tests.kg_edit.evaluation.conftest import Nudge, NudgeConfig
from tests.kg_edit.evaluation.datasets.rows import COUNTERFACT, ENTITY, FACT, FLAT, MQUAKE, POPQA, RIPPLE, ZSRE, written
from tests.kg_edit.evaluation.parrot import Lesson, parrot

ROWS = {
    "counterfact": FLAT,
    "mquake": MQUAKE,
    "zsre": ZSRE,
    "ripple-edits": RIPPLE,
    "knowedit": FACT,
    "popqa": POPQA,
    "entity-inferences": ENTITY,
}


def read(name: str, folder: Path) -> BenchmarkRecord:
    (record,) = find_dataset(name)(written(folder, ROWS[name]))
    return record


@pytest.mark.parametrize("name", keep_first(["counterfact", "zsre"]))
def test_locality_compares_with_the_sections_of_the_unedited_model(
    name: str, model: LanguageModel, tmp_path: Path
) -> None:
    case = Case.of(read(name, tmp_path))
    base = score_cases(model, [case])
    (same,) = score_cases(model, [case], before=base)
    assert same.scores["locality.unchanged"] == 1
    with Nudge(model, NudgeConfig(scale=50)).edit([case.edit]).applied(model):
        (edited,) = score_cases(model, [case], before=base)
    (pair,) = requests_of(case).predicted
    before, after = (section.predicted[pair.prompt][pair.candidate] for section in (base[0], edited))
    expected = sum(old == new for old, new in zip(before, after, strict=True)) / len(before)
    assert edited.scores["locality.unchanged"] == expected < 1


def test_conditions_are_judged_by_the_unedited_models_section(model: LanguageModel, tmp_path: Path) -> None:
    case = Case.of(read("ripple-edits", tmp_path))
    (base,) = score_cases(model, [case])
    condition = "The place of birth of Bob is"
    assert condition in base.texts
    assert base.scores["ripple.CI"] is None  # a random model knows nothing
    changed = base.model_copy(update={"texts": {**base.texts, condition: " Rome"}})
    (edited,) = score_cases(model, [case], before=[changed])
    assert edited.scores["ripple.CI"] == 0


def test_extras_are_sampled(model: LanguageModel, tmp_path: Path) -> None:
    (record,) = find_dataset("counterfact")(written(tmp_path, COUNTERFACT))
    extras = ("fluency.ngram_entropy", "consistency.tfidf")
    changed = record.model_copy(update={"references": ("LeBron James lives in Miami.",)})
    (section,) = score_cases(model, [Case.of(changed, extras=extras)])
    assert set(section.samples) == {"LeBron James lives in", "LeBron James's team is"}
    assert all(section.scores[name] is not None for name in extras)


def test_next_tokens_of_neighbours_are_compared_with_the_unedited_models(model: LanguageModel, tmp_path: Path) -> None:
    """At most the divergence of all tokens, which is computed here from the whole distributions."""
    (record,) = find_dataset("counterfact")(written(tmp_path, COUNTERFACT))
    case, name = Case.of(record, extras=("neighborhood.next_token_kl",)), "neighborhood.next_token_kl"
    base = score_cases(model, [case])
    assert base[0].scores[name] is None and score_cases(model, [case], before=base)[0].scores[name] == pytest.approx(0)

    def logs() -> list[torch.Tensor]:
        ids = [torch.tensor([model.encode(prompt).ids]) for prompt in requests_of(case).next_token_prompts]
        with torch.no_grad():
            return [model.model(row).logits[0, -1].log_softmax(-1) for row in ids]

    before = logs()
    patch = Nudge(model, NudgeConfig(scale=5)).edit([case.edit])
    with patch.applied(model):
        (edited,), after = score_cases(model, [case], before=base), logs()
    divergence = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(before, after, strict=True)) / len(before)
    score = edited.scores[name]
    assert score is not None and 0 < score <= divergence
    (together,) = score_cases(model, [case], before=base, patches=[patch])
    assert together.scores[name] == pytest.approx(score, rel=1e-4)


def test_edit_is_the_same_case_as_its_record(model: LanguageModel, edits: tuple[Edit, ...]) -> None:
    pool = collect_answers(edits)
    drawn = draw_choices(edits[0], pool, seed=0)
    assert drawn == draw_choices(BenchmarkRecord(id="x", edits=edits[:1]), pool, seed=0)
    assert Case.of(edits[0], choices=drawn) == Case(edit=edits[0], choices=drawn)
    assert draw_choices(BenchmarkRecord(id="x", edits=edits[:2]), pool, seed=0) == (
        *drawn,
        *draw_choices(edits[1], pool, seed=0),
    )


@pytest.mark.slow
def test_cases_with_patches_of_their_own_are_scored_as_each_in_turn(model: LanguageModel, tmp_path: Path) -> None:
    """One pass over records of every kind, each on its own edited model; one of them on the model as it is."""
    records = [read(name, tmp_path) for name in ROWS]
    cases = [Case.of(record) for record in records]
    method = Nudge(model, NudgeConfig())
    patches = [None, *(method.edit(record.edits) for record in records[1:])]
    before = score_cases(model, cases)
    together = score_cases(model, cases, before=before, patches=patches)
    assert together[1].nll != before[1].nll, "the patch must be felt"
    for case, patch, earlier, section in zip(cases, patches, before, together, strict=True):
        with patch.applied(model) if patch else nullcontext():
            (alone,) = score_cases(model, [case], before=[earlier])
        assert section.texts == alone.texts
        assert section.predicted == alone.predicted
        assert section.scores == pytest.approx(alone.scores, abs=1e-4)


def stated(edit: Edit, *names: str) -> Query:
    return Query(prompt=edit.text, answers=(names or ("Rome",),), form="sentence")


def written_after(model: LanguageModel, edit: Edit, *probes: Probe) -> str:
    (section,) = score_cases(model, [Case(edit=edit, probes=probes)])
    return section.texts[edit.text]


@pytest.mark.slow
def test_probe_about_the_edits_own_prompt_has_room_for_an_answer(model: LanguageModel, edits: tuple[Edit, ...]) -> None:
    """The edit alone needs less, and gets less."""
    edit = edits[0]
    few, enough = (continuations(model, [edit.text], limits=[limit])[0] for limit in (10, ANSWER_TOKENS))
    assert written_after(model, edit) == few != enough
    other = Query(prompt="Rome is", answers=(("Rome",),), form="sentence")
    conditional = Probe(measures="ripple.CI", queries=(other,), conditions=(stated(edit),))
    for probe in (Probe(measures="edit", queries=(stated(edit),)), conditional):
        assert written_after(model, edit, probe) == enough


def test_prompt_that_is_only_scored_gets_no_longer_text(model: LanguageModel, edits: tuple[Edit, ...]) -> None:
    edit = edits[0]
    probe = Probe(measures="efficacy", queries=(stated(edit),))
    assert written_after(model, edit, probe) == written_after(model, edit)


@pytest.mark.slow
def test_no_alias_of_an_edits_target_is_cut(model: LanguageModel, edits: tuple[Edit, ...]) -> None:
    edit, alias = edits[0], "the old, old city of Rome" + " by the river" * 10
    length = len(model.tokenizer(alias)["input_ids"])
    assert length > ANSWER_TOKENS
    texts = [continuations(model, [edit.text], limits=[limit])[0] for limit in (ANSWER_TOKENS, length, length + 2)]
    assert len(set(texts)) == 3
    assert written_after(model, edit, Probe(measures="edit", queries=(stated(edit, "Rome", alias),))) == texts[-1]


@pytest.mark.slow
def test_no_answer_to_a_question_is_cut() -> None:
    """As in the report of `kg-edit edit`: a name in another script has many tokens."""
    answer = " ".join(f"{letter}x" for letter in ascii_uppercase)
    model = parrot(answer, "Oslo")
    assert len(model.tokenizer(answer)["input_ids"]) > ANSWER_TOKENS
    for question in (Question(question="Where?", answer=answer), Question(question="?", answer="x", aliases=(answer,))):
        edit = Edit(subject="Ada", prompt="{} is", target_new="old", portability=(question,))
        case = Case.of(edit)
        sections = score_cases(model, [case, make_ceiling_cases(case)["fact_in_prompt"]])
        assert [section.scores["portability.greedy"] for section in sections] == [1, 1]
    condition, query = (Query(prompt=text, answers=((answer,),), form="sentence") for text in ("Rome is", "Paris is"))
    test = Probe(measures="ripple.CI", queries=(query,), conditions=(condition,))
    (section,) = score_cases(model, [Case(edit=edit, probes=(test,))])
    assert section.scores["ripple.CI"] == 1, "the condition is fulfilled"


def test_text_has_room_for_all_answers_that_a_query_requires() -> None:
    """Such as the names of all siblings: each alone is short."""
    names = [f"{letter}x" for letter in ascii_uppercase]
    model, edit = parrot(" ".join(names), "Oslo"), Edit(subject="Ada", prompt="{} is", target_new="old")
    query = Query(prompt="Rome is", answers=tuple((name,) for name in names), every=True, form="sentence")
    (section,) = score_cases(model, [Case(edit=edit, probes=(Probe(measures="ripple.LG", queries=(query,)),))])
    assert section.scores["ripple.LG"] == 1
    cast = query.model_copy(update={"answers": query.answers * 20})
    case = Case(edit=edit, probes=(Probe(measures="ripple.LG", queries=(cast,)),))
    limits = {text.prompt: text.limit(model.tokenizer, chat=False) for text in requests_of(case).continued}
    assert limits["Rome is"] == LIST_TOKENS


def test_locality_prompt_that_another_probe_asks_too_is_not_cut() -> None:
    """The new object is longer than the five tokens that are compared; a text that differs after them is the same."""
    near, new = "Paris is", "Ax Bx Cx Dx Ex Fx Gx Hx"
    model, edit = parrot(new, "Oslo"), Edit(subject="Ada", prompt="{} is", target_new=new, neighborhood=(near,))
    case = Case.of(with_probes(record_of(edit), ("elsewhere",)))
    (section,) = score_cases(model, [case])
    assert section.scores["elsewhere.greedy"] == 1
    before = section.model_copy(update={"texts": {**section.texts, near: f" {new} Oslo"}})
    (same,) = score_cases(model, [case], before=[before])
    assert same.scores["locality.same_text"] == 1
    (other,) = score_cases(model, [case], before=[before], patches=[Lesson(model, None).edit([edit])])
    assert (other.scores["locality.same_text"], other.scores["elsewhere.greedy"]) == (0, 0)


def test_ceilings_ask_the_questions_of_all_edits(model: LanguageModel, edits: tuple[Edit, ...]) -> None:
    """Each after the fact of its own edit."""
    record = BenchmarkRecord(id="x", edits=edits[:2])
    case = Case.of(record, choices=draw_choices(record, collect_answers(edits), seed=0))
    cases = make_ceiling_cases(case)
    assert cases["fact_in_prompt"].facts == tuple(map(fact_sentence, edits[:2]))
    assert [text.rpartition(". ")[2] for text in cases["fact_and_relation_in_prompt"].facts] == [
        "Lakers city Paris.",
        "Lakers city London.",
    ]
    for name, section in zip(cases, score_cases(model, list(cases.values())), strict=True):
        assert cases[name].questions == case.questions
        assert set(section.texts) == {question.question for question in case.questions}
        assert None not in section.scores.values()


def test_ceilings_where_the_first_edit_asks_nothing(model: LanguageModel, edits: tuple[Edit, ...]) -> None:
    silent = edits[0].model_copy(update={"portability": ()})
    record = BenchmarkRecord(id="x", edits=(silent, edits[1]))
    case = Case.of(record, choices=draw_choices(record, collect_answers(edits), seed=0))
    assert make_ceiling_cases(case)["fact_in_prompt"].facts == (fact_sentence(edits[1]),)
    assert make_ceiling_cases(Case.of(silent)) == {}


@pytest.mark.slow
def test_unedited_scores_of_which_one_is_missing_are_computed_in_the_same_batch(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between two files must not change the roundings of the second; what is stored stays."""
    sizes = list[int]()

    def counted(model: LanguageModel, cases: Sequence[Case], **how: Any) -> tuple[Section, ...]:
        sizes.append(len(cases))
        return score_cases(model, cases, **how)

    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path))
    monkeypatch.setattr("kg_edit.evaluation.scorer.score_cases", counted)
    cases = {edit.id: Case.of(edit) for edit in edits[:4]}
    scores = UneditedScores(model, {"model": {"name": "tiny"}})
    first = scores.sections(cases)
    next((tmp_path / "unedited").rglob("*.json")).unlink()
    again = UneditedScores(model, {"model": {"name": "tiny"}}).sections(cases)
    assert sizes == [4, 4] and again == first
    assert scores.sections(cases) == first and len(sizes) == 2
