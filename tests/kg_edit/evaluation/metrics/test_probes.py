"""The metrics of probes on evidence made by hand, each compared with a protocol that gives another value."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import Probe, Query
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.catalogue import RECORD_METRICS, metrics_for
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.questions import format_question, format_question_with_shots

Names = tuple[tuple[str, ...], ...]
ROME: Names = (("Rome", "Roma"),)


def sentence(prompt: str, answers: Names = ROME, *, every: bool = False, others: tuple[str, ...] = ()) -> Query:
    return Query(prompt=prompt, answers=answers, form="sentence", every=every, others=others)


def probe(measures: str, *queries: Query, **options: object) -> Probe:
    return Probe.model_validate({"measures": measures, "queries": queries, **options})


def value(name: str, edit: Edit, *probes: Probe, **evidence: Mapping[object, object]) -> float | None:
    case = Case(edit=edit, probes=probes)
    assert name in metrics_for(case)
    return RECORD_METRICS[name](case, Evidence(**evidence))  # type: ignore[arg-type]


@pytest.fixture
def edit(edits: tuple[Edit, ...]) -> Edit:
    return edits[0].model_copy(update={"portability": ()})


@pytest.mark.parametrize(("passes", "found"), [("any", 1.0), ("all", 0.0)])
def test_ripple_tests_join_their_queries(edit: Edit, passes: str, found: float) -> None:
    test = probe("ripple.CI", sentence("A is"), sentence("B is"), passes=passes)
    assert value("ripple.CI", edit, test, texts={"A is": " Rome", "B is": " Oslo"}) == found


def test_ripple_query_needs_every_answer_as_whole_words(edit: Edit) -> None:
    """As substrings, Bo is in Bologna."""
    query = sentence("The children of Ada are", (("Ed",), ("Bo",)), every=True)
    test = probe("ripple.LG", query)
    assert value("ripple.LG", edit, test, texts={query.prompt: " Ed and Bo."}) == 1
    assert value("ripple.LG", edit, test, texts={query.prompt: " Ed of Bologna."}) == 0
    either = query.model_copy(update={"every": False})
    assert value("ripple.LG", edit, probe("ripple.LG", either), texts={query.prompt: " Ed of Bologna."}) == 1


def test_ripple_test_counts_only_where_the_unedited_model_knows_its_condition(edit: Edit) -> None:
    """Judged on the edited model, which forgot it, the second test would not count."""
    known, forgotten = sentence("K is"), sentence("F is")
    tests = [
        probe("ripple.RS", sentence(name), conditions=(condition,))
        for name, condition in (("A is", known), ("B is", forgotten))
    ]
    before = Evidence(texts={"K is": " Oslo", "F is": " Rome"})
    after = {"A is": " Rome", "B is": " Oslo", "K is": " Rome", "F is": " Oslo"}
    case = Case(edit=edit, probes=tuple(tests))
    assert RECORD_METRICS["ripple.RS"](case, Evidence(texts=after, before=before)) == 0
    assert RECORD_METRICS["ripple.RS"](case, Evidence(texts=after)) == 1
    none = Evidence(texts=after, before=Evidence(texts={"K is": "", "F is": ""}))
    assert RECORD_METRICS["ripple.RS"](case, none) is None


def test_criteria_do_not_mix(edit: Edit) -> None:
    tests = (probe("ripple.CI", sentence("A is")), probe("ripple.CII", sentence("B is")))
    texts = {"A is": " Rome", "B is": " Oslo"}
    assert value("ripple.CI", edit, *tests, texts=texts) == 1
    assert value("ripple.CII", edit, *tests, texts=texts) == 0


def test_unchanged_compares_two_models_and_not_the_truth(edit: Edit) -> None:
    """Before and after agree at one of two places; the true tokens are 1 and 2, so accuracy fell from 1 to 1/2."""
    pair, query = Pair("A is", "Rome"), sentence("A is")
    scores = {pair: TokenScores(nll=1.0, accuracy=0.5)}
    case = Case(edit=edit, probes=(probe("locality", query),))
    after = Evidence(scores=scores, predicted={pair: (1, 7)}, before=Evidence(predicted={pair: (1, 2)}))
    assert RECORD_METRICS["locality.unchanged"](case, after) == 0.5
    same_but_wrong = Evidence(scores=scores, predicted={pair: (8, 9)}, before=Evidence(predicted={pair: (8, 9)}))
    assert RECORD_METRICS["locality.unchanged"](case, same_but_wrong) == 1
    assert RECORD_METRICS["locality.teacher_forced"](case, same_but_wrong) == 0.5
    assert RECORD_METRICS["locality.unchanged"](case, Evidence(predicted={pair: (1, 2)})) is None
    longer = Evidence(scores=scores, predicted={pair: (1, 2, 3)}, before=Evidence(predicted={pair: (1, 2)}))
    assert RECORD_METRICS["locality.unchanged"](case, longer) is None, "an edit of the prompt split the answer anew"


def test_teacher_forcing_is_kinder_than_generation(edit: Edit) -> None:
    """Two of three tokens are right when the first is given; left alone, the model goes astray at the first."""
    asked_ = probe("locality", sentence("A is", (("New York City",),)))
    scores = {Pair("A is", "New York City"): TokenScores(nll=2.0, accuracy=2 / 3)}
    case, evidence = Case(edit=edit, probes=(asked_,)), Evidence(scores=scores, texts={"A is": " Los York City"})
    assert RECORD_METRICS["locality.teacher_forced"](case, evidence) == pytest.approx(2 / 3)
    assert RECORD_METRICS["locality.greedy"](case, evidence) == 0


def test_categories_count_alike_whatever_their_size(edit: Edit) -> None:
    """One prompt right of one, and none of three: 1/2 over categories, 1/4 over prompts."""
    aliasing = [probe("portability.Subject_Aliasing", sentence(f"{name} is")) for name in "BCD"]
    texts = {"A is": " Rome", **{f"{name} is": " Oslo" for name in "BCD"}}
    probes = (probe("portability.Reasoning", sentence("A is")), *aliasing)
    assert value("portability.greedy", edit, *probes, texts=texts) == 0.5
    assert value("portability.Reasoning.greedy", edit, *probes, texts=texts) == 1
    assert value("portability.Subject_Aliasing.greedy", edit, *probes, texts=texts) == 0


def test_first_name_is_the_one_that_is_forced(edit: Edit) -> None:
    scores = {Pair("A is", "Rome"): TokenScores(nll=3.0, accuracy=1.0)}
    probes = (probe("portability.Reasoning", sentence("A is", (("Rome", "Roma"), ("Oslo",)))),)
    assert value("portability.nll", edit, *probes, scores=scores) == 3
    assert value("portability.Reasoning.teacher_forced", edit, *probes, scores=scores) == 1


@pytest.mark.parametrize(("text", "words", "letters"), [(" Romelu", 0, 1), (" in ROME.", 1, 1), (" Oslo", 0, 0)])
def test_recall_by_words_and_by_letters(edit: Edit, text: str, words: float, letters: float) -> None:
    query = Query(prompt="Where?", answers=(("Rome",),))
    texts = {format_question_with_shots("Where?"): text}
    assert value("recall.greedy", edit, probe("recall", query), texts=texts) == words
    assert value("recall.substring", edit, probe("recall", query), texts=texts) == letters


@pytest.mark.parametrize(("nll", "found"), [(1.0, 1.0), (2.0, 0.0), (3.0, 0.0)])
def test_right_label_must_be_the_likeliest_alone(edit: Edit, nll: float, found: float) -> None:
    query = sentence("It hit", (("Peru.",),), others=("Italy.", "Chad."))
    likely = {"Peru.": nll, "Italy.": 2.0, "Chad.": 9.0}
    scores = {Pair("It hit", name): TokenScores(nll=value, accuracy=0.0) for name, value in likely.items()}
    assert value("inference.choice", edit, probe("inference", query), scores=scores) == found


def test_labels_are_compared_by_the_sum_over_their_tokens(edit: Edit) -> None:
    query = sentence("It hit", (("Peru",),), others=("the Ivory Coast",))
    scores = {
        Pair("It hit", "Peru"): TokenScores(nll=4.0, accuracy=0.0, tokens=1),
        Pair("It hit", "the Ivory Coast"): TokenScores(nll=2.0, accuracy=0.0, tokens=3),
    }
    assert value("inference.choice", edit, probe("inference", query), scores=scores) == 1.0


def test_masked_span(edit: Edit) -> None:
    scores = {Pair("It hit", "Peru"): TokenScores(nll=2.5, accuracy=0.0)}
    assert value("span.nll", edit, probe("span", sentence("It hit", (("Peru",),))), scores=scores) == 2.5


def test_sentiment_is_over_all_pairs_of_replies(edit: Edit) -> None:
    """2 of 4 pairs; the means, 2.5 and 2.0, would favour the bad replies."""
    likely = {"good": 1.0, "nice": 4.0, "bad": 1.5, "foul": 2.5}
    scores = {Pair("So?", name): TokenScores(nll=value, accuracy=0.0) for name, value in likely.items()}
    query = sentence("So?", (("good",), ("nice",)), others=("bad", "foul"))
    assert value("sentiment.prob", edit, probe("sentiment", query), scores=scores) == 0.5


def test_questions_are_scored_in_the_plain_form(edit: Edit) -> None:
    scores = {Pair(format_question("Where?"), "Rome"): TokenScores(nll=1.0, accuracy=0.5)}
    query = Query(prompt="Where?", answers=ROME)
    assert value("locality.teacher_forced", edit, probe("locality", query), scores=scores) == 0.5
