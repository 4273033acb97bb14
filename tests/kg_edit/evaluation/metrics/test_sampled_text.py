"""Metrics of sampled texts, by hand."""

from __future__ import annotations

import math

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import Probe, Query
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.catalogue import RECORD_METRICS, metrics_for, requests_of
from kg_edit.evaluation.metrics.sampled_text import (
    EXTRAS,
    divergence,
    fuzzy_prompt,
    ngram_entropy,
    partial_ratio,
    tfidf_similarity,
)
from kg_edit.scoring.evidence import Evidence
from kg_edit.text.similarity import words

GENERATION = Probe(measures="generation", queries=(Query(prompt="Ada is ", form="sentence"),))


def test_words_are_runs_of_letters() -> None:
    assert words("Don't go, to Rome.") == ["Don", "'", "t", "go", ",", "to", "Rome", "."]


def test_entropy_by_hand() -> None:
    """Bigrams ab, ba, ab: 2/3 and 1/3. Trigrams aba, bab: 1/2 each, so one bit."""
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert ngram_entropy("a b a b") == pytest.approx((2 / 3 * bigrams + 4 / 3 * 1) / 2)
    assert ngram_entropy("a a a a a") == 0
    assert ngram_entropy("") == 0
    assert ngram_entropy("a b a b") != pytest.approx((bigrams + 1) / 2)  # without the weights


def test_similarity_by_hand() -> None:
    """Two references: idf of a is ln(3/3) + 1 = 1, of b and c ln(3/2) + 1, of a word in neither ln 3 + 1."""
    idf, none = math.log(3 / 2) + 1, math.log(3) + 1
    text, joined = (1, idf, none), (2, idf, idf)  # "a b x" over a, b, x; "a b a c" over a, b, c
    expected = (1 * 2 + idf * idf) / (math.hypot(*text) * math.hypot(*joined))
    assert tfidf_similarity("A b x", ["a b", "a c"]) == pytest.approx(expected)
    assert tfidf_similarity("a b", ["a b"]) == pytest.approx(1)
    assert tfidf_similarity("x", ["a"]) == 0


def test_fluency_and_consistency_of_a_case(edits: tuple[Edit, ...]) -> None:
    extras = ("fluency.ngram_entropy", "consistency.tfidf")
    case = Case(edit=edits[0], probes=(GENERATION,), extras=extras, references=("Ada is Ada",))
    evidence = Evidence(samples={"Ada is": "Ada is Ada"})
    assert set(extras) <= set(metrics_for(case))
    assert requests_of(case).sampled == ("Ada is",)
    assert RECORD_METRICS["fluency.ngram_entropy"](case, evidence) == pytest.approx(2 / 3 / 2)
    assert RECORD_METRICS["consistency.tfidf"](case, evidence) == pytest.approx(1)
    assert RECORD_METRICS["consistency.tfidf"](Case(edit=edits[0], probes=(GENERATION,)), evidence) is None


def test_extras_are_scored_on_request_only(edits: tuple[Edit, ...]) -> None:
    assert not set(EXTRAS) & set(metrics_for(Case(edit=edits[0], probes=(GENERATION,))))
    assert requests_of(Case(edit=edits[0], probes=(GENERATION,))).sampled == ()


@pytest.mark.parametrize(
    ("text", "name", "ratio"), [("the city of Paris", "Paris", 100), ("Pares", "Paris", 80), ("xyz", "Paris", 0)]
)
def test_ratio_of_the_best_part(text: str, name: str, ratio: float) -> None:
    assert partial_ratio(text, name) == ratio


def test_fuzzy_match_reads_the_question_too(edits: tuple[Edit, ...]) -> None:
    """The answer is in the question alone: a match for GLAME's program, not for any other."""
    question = edits[0].portability[0].model_copy(update={"question": "Is Paris where player 0 lives?"})
    edit = edits[0].model_copy(update={"portability": (question,)})
    case = Case(edit=edit, extras=("portability.glame_fuzzy",))
    (prompt,) = requests_of(case).sampled
    assert prompt == fuzzy_prompt(question.question) == "Is Paris where player 0 lives? The answer, most simply, is"
    evidence = Evidence(samples={prompt: f"{prompt} no."}, texts={case.few_shot_prompts[0]: " no."})
    assert RECORD_METRICS["portability.glame_fuzzy"](case, evidence) == 1
    assert RECORD_METRICS["portability.greedy"](case, evidence) == 0


def test_divergence_of_next_tokens_counts_the_rest_as_one() -> None:
    before = {5: math.log(0.5), 7: math.log(0.25)}  # and 0.25 for all other tokens
    after = {5: math.log(0.25), 7: math.log(0.25)}  # and 0.5
    assert divergence(before, after) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5))
    assert divergence(before, before) == pytest.approx(0)
