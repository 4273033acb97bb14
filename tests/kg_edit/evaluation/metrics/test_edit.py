"""The metrics of every record on evidence made by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.edit import METRICS
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.pairs import Pair, TokenScores

NEW, TRUE = "Miami Heat", "Los Angeles Lakers"
QUESTION = "Question: Where does player 0 live?\nAnswer:"
KINDS = {"efficacy": "text", "paraphrase": "paraphrases", "neighborhood": "neighborhood"}


def evidence(nll: Mapping[tuple[str, str], float], texts: Mapping[str, str] | None = None) -> Evidence:
    scores = {Pair(*pair): TokenScores(nll=value, accuracy=0.25) for pair, value in nll.items()}
    return Evidence(scores=scores, texts=texts or {})


@pytest.fixture(scope="module")
def case(edits: tuple[Edit, ...]) -> Case:
    return Case(edit=edits[0])


@pytest.mark.parametrize(("new", "true", "value"), [(1.0, 2.0, 1.0), (2.0, 1.0, 0.0), (1.0, 1.0, 0.0)])
def test_efficacy_and_paraphrase_prefer_the_new_target(case: Case, new: float, true: float, value: float) -> None:
    for name, prompt in (("efficacy.prob", case.edit.text), ("paraphrase.prob", case.edit.paraphrases[0])):
        assert METRICS[name](case, evidence({(prompt, NEW): new, (prompt, TRUE): true})) == value


def test_neighborhood_prefers_the_true_target_over_its_prompts(case: Case) -> None:
    first, second = (prompt.rstrip() for prompt in case.edit.neighborhood)
    nll = {(first, NEW): 2.0, (first, TRUE): 1.0, (second, NEW): 1.0, (second, TRUE): 2.0}
    assert METRICS["neighborhood.prob"](case, evidence(nll)) == 0.5


def test_magnitudes_are_differences_of_geometric_means(case: Case) -> None:
    """A target of two tokens with p = 1/4 each has the geometric mean 1/4; as a whole it has 1/16."""
    first, second = (prompt.rstrip() for prompt in case.edit.neighborhood)
    prompts = (case.edit.text, case.edit.paraphrases[0], first, second)
    nll = {(prompt, target): math.log(odds) for prompt in prompts for target, odds in ((NEW, 4), (TRUE, 8))}
    nll[second, TRUE] = math.log(2)
    for kind, value in (("efficacy", 1 / 4 - 1 / 8), ("paraphrase", 1 / 8), ("neighborhood", (-1 / 8 + 1 / 4) / 2)):
        assert METRICS[f"{kind}.magnitude"](case, evidence(nll)) == pytest.approx(value)


def test_no_true_target_no_comparison(case: Case) -> None:
    bare = Case(edit=case.edit.model_copy(update={"target_true": None}))
    for kind in KINDS:
        for form in ("prob", "magnitude"):
            assert METRICS[f"{kind}.{form}"](bare, evidence({})) is None


@pytest.mark.parametrize(("text", "value"), [(" Miami Heat, a team", 1.0), (" a Miami Heat", 1.0), (" Miami", 0.0)])
def test_greedy_efficacy_begins_with_the_new_target(case: Case, text: str, value: float) -> None:
    assert METRICS["efficacy.greedy"](case, evidence({}, {case.edit.text: text})) == value


def test_several_edits_count_alike(edits: tuple[Edit, ...]) -> None:
    both = Case(edit=edits[0], further=(edits[1],))
    texts = {edits[0].text: " Miami Heat", edits[1].text: " Lakers"}
    assert METRICS["efficacy.greedy"](both, evidence({}, texts)) == 0.5


@pytest.mark.parametrize(("text", "value"), [(" In Paris.", 1.0), (" Lutetia", 1.0), (" Parisian", 0.0), ("", 0.0)])
def test_greedy_portability_knows_aliases(case: Case, text: str, value: float) -> None:
    question = case.edit.portability[0].model_copy(update={"aliases": ("Lutetia",)})
    with_alias = Case(edit=case.edit.model_copy(update={"portability": (question,)}))
    (prompt,) = with_alias.few_shot_prompts
    assert METRICS["portability.greedy"](with_alias, evidence({}, {prompt: text})) == value


def test_teacher_forced_and_nll_are_the_answers(case: Case) -> None:
    losses = evidence({(QUESTION, "Paris"): 1.5})
    assert METRICS["portability.teacher_forced"](case, losses) == 0.25
    assert METRICS["portability.nll"](case, losses) == 1.5


@pytest.mark.parametrize(("alone", "value"), [(4.0, 1.0), (2.5, 0.0), (2.0, 0.0)])
def test_choice_weighs_each_answer_against_itself_alone(case: Case, alone: float, value: float) -> None:
    """Rome gains 1 nat by the question; Paris gains alone - 1.5."""
    nll = {(QUESTION, "Paris"): 1.5, ("Answer:", "Paris"): alone, (QUESTION, "Rome"): 0.5, ("Answer:", "Rome"): 1.5}
    chosen = Case(edit=case.edit, choices=(("Paris", "Rome"),))
    assert METRICS["portability.choice"](chosen, evidence(nll)) == value


def test_portability_is_missing_without_questions_or_choices(case: Case) -> None:
    silent = Case(edit=case.edit.model_copy(update={"portability": ()}))
    for name in ("greedy", "teacher_forced", "nll", "choice"):
        assert METRICS[f"portability.{name}"](silent, evidence({})) is None
    assert METRICS["portability.choice"](Case(edit=case.edit, choices=((),)), evidence({})) is None
