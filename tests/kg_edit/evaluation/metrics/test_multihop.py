"""MQuAKE's metrics besides exact match, on evidence made by hand."""

from __future__ import annotations

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import Probe, Query
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.catalogue import metrics_for
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.questions import format_question, format_question_with_shots

EDIT = Edit(id="1", subject="Misery", prompt="The author of {} is", target_new="Richard Dawkins")
WORDINGS = tuple(
    Query(prompt=f"Whose {n}?", answers=(("Peru", "PE"),), others=("Italy",), old=("Italy", "Italia")) for n in range(3)
)
HOPS = (Query(prompt="Who wrote it?", answers=(("Dawkins",),)), Query(prompt="Of where?", answers=(("Peru",),)))
CASE = Case(
    edit=EDIT,
    probes=(
        Probe(measures="multihop", queries=WORDINGS, passes="any"),
        Probe(measures="hops", queries=HOPS),
    ),
)
NEW, OLD = (1.0, 2.0, 6.0), (3.0, 1.0, 5.0)  # nll of Peru and of Italy after each wording


def scores(*texts: str) -> dict[str, float | None]:
    """All metrics where the five questions are answered with ``texts``: three wordings, two hops."""
    prompts = [query.prompt for query in (*WORDINGS, *HOPS)]
    by_prompt = {format_question_with_shots(prompt): text for prompt, text in zip(prompts, texts, strict=True)}
    losses = {
        Pair(format_question(query.prompt), name): TokenScores(nll=value, accuracy=0)
        for name, values in (("Peru", NEW), ("Italy", OLD))
        for query, value in zip(WORDINGS, values, strict=True)
    }
    evidence = Evidence(texts=by_prompt, scores=losses)
    metrics = {name: metric for name, metric in metrics_for(CASE).items() if name.startswith("multihop.")}
    return {name: metric(CASE, evidence) for name, metric in metrics.items()}


def test_likelihoods_of_both_answers() -> None:
    values = scores("x", "x", "x", "x", "x")
    assert values["multihop.nll"] == pytest.approx(3.0) and values["multihop.old.nll"] == pytest.approx(3.0)
    assert values["multihop.prob"] == pytest.approx(1 / 3), "the mean losses are equal"
    assert values["multihop.any_of_3"] == values["multihop.old.any_of_3"] == values["multihop.hop_share"] == 0


@pytest.mark.parametrize(
    ("texts", "any_of_3", "share", "instance", "hop_wise", "old"),
    [
        (("x", "PE", "x", "Dawkins", "Peru"), 1, 1, 1, 1, 0),
        (("x", "Peru", "Italy", "Dawkins", "Italy"), 1, 0.5, 0, 0, 1),
        (("x", "Italy", "x", "Dawkins", "Peru"), 0, 1, 1, 0, 1),
        (("x", "Italia", "x", "x", "x"), 0, 0, 0, 0, 1),
        (("x", "in Italy", "Peru and more", "x", "x"), 0, 0, 0, 0, 0),
    ],
)
def test_answer_hops_and_old_answer(
    texts: tuple[str, ...], any_of_3: float, share: float, instance: float, hop_wise: float, old: float
) -> None:
    values = scores(*texts)
    names = ("any_of_3", "hop_share", "instance_wise", "hop_wise", "old.any_of_3")
    assert [values[f"multihop.{name}"] for name in names] == [any_of_3, share, instance, hop_wise, old]


def test_records_of_two_three_and_four_hops_are_separate() -> None:
    values = scores("x", "PE", "x", "Dawkins", "Peru")
    assert [values[f"multihop.{hops}_hops.any_of_3"] for hops in (2, 3, 4)] == [1, None, None]
    assert [values[f"multihop.{hops}_hops.nll"] for hops in (2, 3, 4)] == [pytest.approx(3.0), None, None]
    for name in ("prob", "old.any_of_3", "hop_share", "instance_wise", "hop_wise"):
        assert values[f"multihop.2_hops.{name}"] == values[f"multihop.{name}"], name
        assert values[f"multihop.3_hops.{name}"] is None
