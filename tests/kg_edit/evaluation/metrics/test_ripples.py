"""The metrics of a Ripples file, computed by hand from what a model wrote."""

from __future__ import annotations

from math import log

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Example, Probe, Query
from kg_edit.evaluation.case import Case, make_ceiling_cases
from kg_edit.evaluation.metrics.catalogue import metrics_for, requests_of
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.questions import (
    ANSWER,
    SHOTS,
    generation_prompt,
    parse_stepped_answer,
    scoring_prompt,
    steps_prompt,
)

EDIT = Edit(id="1", subject="Rome", prompt="{} lies in", target_new="Japan")
CAPITAL = Query(
    prompt="What is the capital of the country of Rome?",
    answers=(("Tokyo", "Edo"),),
    others=("Rome", "Paris"),
    old=("Rome", "Roma"),
    recalled="The capital of Japan is Tokyo.",
)
MILAN = Query(prompt="What is the country of Milan?", answers=(("Italy",),))
CASE = Case.of(
    BenchmarkRecord(
        id="1",
        edits=(EDIT,),
        probes=(
            Probe(measures="ripples-known.stated", queries=(CAPITAL,)),
            Probe(measures="ripples-stay.same-object", queries=(MILAN,)),
        ),
    )
)


def scored(
    direct: str, stepped: str = "", *, gains: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> dict[str, float | None]:
    """The metrics where the model wrote this; ``gains`` are those of Tokyo, Rome, Paris by the question."""
    prompt = scoring_prompt(CAPITAL)
    scores = {
        Pair(context, name): TokenScores(nll=3.0 - (gain if context == prompt else 0.0), accuracy=0.0)
        for name, gain in zip(("Tokyo", "Rome", "Paris"), gains, strict=True)
        for context in (prompt, ANSWER)
    }
    texts = {generation_prompt(CAPITAL): direct, steps_prompt(CAPITAL): stepped, generation_prompt(MILAN): " Italy"}
    evidence = Evidence(scores=scores, texts=texts)
    metrics = {name: metric for name, metric in metrics_for(CASE).items() if name.startswith("ripples")}
    return {name: metric(CASE, evidence) for name, metric in metrics.items()}


@pytest.mark.parametrize(
    ("text", "right", "old"), [(" Tokyo.", 1, 0), (" The Edo", 1, 0), (" not Tokyo", 0, 0), (" Roma, Tokyo", 0, 1)]
)
def test_answer_counts_at_the_start(text: str, right: int, old: int) -> None:
    values = scored(text)
    assert (values["ripples-known.greedy"], values["ripples-known.greedy_old"]) == (right, old)
    assert values["ripples-known.stated.greedy"] == right
    assert values["ripples-stay.same-object.greedy"] == 1
    assert "ripples-unknown.greedy" not in values


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" The country of Rome is Japan. The capital of Japan is Tokyo. So: Tokyo", 1),
        (" So: Paris. So: Edo", 1),
        (" Tokyo", 0),
        (" The capital is Tokyo. So: Paris", 0),
    ],
)
def test_with_steps_the_end_counts(text: str, right: int) -> None:
    assert scored(" Tokyo", text)["ripples-known.steps"] == right


def test_choice_is_by_what_the_question_adds() -> None:
    assert scored("", gains=(2.0, 1.0, 0.0))["ripples-known.choice"] == 1
    assert scored("", gains=(1.0, 1.0, 0.0))["ripples-known.choice"] == 0  # a tie
    assert scored("", gains=(log(4), 0.0, 0.0))["ripples-known.nll"] == pytest.approx(3.0 - log(4))


def test_examples_with_steps_end_in_their_answers() -> None:
    text = steps_prompt(CAPITAL)
    shots = text.split("\n\n")
    assert len(shots) == len(SHOTS) + 1
    assert [parse_stepped_answer(shot).strip() for shot in shots] == ["Yellow", "Milk", "Noah", "Autumn", ""]
    assert shots[-1] == scoring_prompt(CAPITAL)


def test_ceilings_have_the_fact_and_the_graphs_statement() -> None:
    cases = make_ceiling_cases(CASE)
    assert list(cases) == ["fact_in_prompt", "fact_and_relation_in_prompt"]
    facts = {name: case.probes[0].queries[0].context for name, case in cases.items()}
    assert facts["fact_in_prompt"] == "Rome lies in Japan."
    assert facts["fact_and_relation_in_prompt"] == "Rome lies in Japan. The capital of Japan is Tokyo."
    for case in cases.values():
        assert len(case.probes) == 1
        assert {name.partition(".")[0] for name in metrics_for(case)} == {"ripples-known"}
        prompts = [text.prompt for text in requests_of(case).continued]
        assert all("Japan" in prompt for prompt in prompts)
        assert EDIT.text not in prompts


def test_ceilings_have_the_facts_of_examples_too() -> None:
    hops = ("The country of Lyon is France.", "The capital of France is Paris.")
    shown = (
        Example(question="What is the capital of the country of Lyon?", answer="Paris", facts=hops),
        Example(question="What is the capital of Peru?", answer="Lima", facts=("The capital of Peru is Lima.",)),
    )
    probe = Probe(measures="ripples-known.stated", queries=(CAPITAL.model_copy(update={"examples": shown}),))
    cases = make_ceiling_cases(Case.of(BenchmarkRecord(id="1", edits=(EDIT,), probes=(probe,))))
    texts = {name: generation_prompt(case.probes[0].queries[0]).split("\n\n") for name, case in cases.items()}
    alone, both = texts["fact_in_prompt"], texts["fact_and_relation_in_prompt"]
    assert alone[0].startswith(f"{hops[0]}\nQuestion: ")
    assert alone[1].startswith("Question: ")  # its first hop is its answer
    assert both[0].startswith(" ".join(hops))
    assert both[1].startswith("The capital of Peru is Lima.\nQuestion: ")
    assert both[-1] == f"Rome lies in Japan. The capital of Japan is Tokyo.\nQuestion: {CAPITAL.prompt}\nAnswer:"
