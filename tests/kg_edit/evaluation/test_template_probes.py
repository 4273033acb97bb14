"""Probes that are made from an edit by templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.metrics.catalogue import requests_of
from kg_edit.evaluation.metrics.conversations import CONVERSATION_METRICS
from kg_edit.evaluation.metrics.probes import TEMPLATE_METRICS
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.template_probes import PROBES, parse_probe_names, with_probes
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.questions import generation_prompt, scoring_prompt

EDIT = Edit(
    id="1",
    subject="LeBron James",
    prompt="{} plays for the",
    target_new="Boston Celtics",
    target_true="Miami Heat",
    neighborhood=("Dwyane Wade plays for the",),
)
RECORD = BenchmarkRecord(id="1", edits=(EDIT,))


def prompts(name: str) -> list[str]:
    record = with_probes(RECORD, [name])
    return [scoring_prompt(query) for probe in record.group(name) for query in probe.queries]


@pytest.mark.parametrize("name", PROBES)
def test_template_makes_no_query_without_what_it_needs(name: str) -> None:
    empty = {"target_true": None, "neighborhood": (), "subject": "", "prompt": "Who is it?"}
    for field in PROBES[name].needs:
        without = {field: empty[field], **({"prompt": empty["prompt"]} if field == "subject" else {})}
        assert not list(PROBES[name].make_queries(EDIT.model_copy(update=without)))
    unneeded = {
        field: value for field, value in empty.items() if field not in (*PROBES[name].needs, "subject", "prompt")
    }
    assert list(PROBES[name].make_queries(EDIT.model_copy(update=unneeded)))


def test_prompts_of_the_templates() -> None:
    assert prompts("negation") == ["It is not true that LeBron James plays for the"]
    assert prompts("fact-check") == [
        "Question: Is it true that LeBron James plays for the Boston Celtics?\nAnswer:",
        "Question: Is it true that LeBron James plays for the Miami Heat?\nAnswer:",
    ]
    assert prompts("distracting") == ["LeBron James plays for the Boston Celtics. Dwyane Wade plays for the"]
    assert prompts("reversed") == ['Question: Which name is missing in "___ plays for the Boston Celtics"?\nAnswer:']
    assert prompts("elsewhere") == ["Dwyane Wade plays for the"]
    assert prompts("refutation") == ["LeBron James plays for the"]


def test_edit_without_an_old_object_is_only_asked_what_needs_none() -> None:
    bare = RECORD.model_copy(update={"edits": (EDIT.model_copy(update={"target_true": None}),)})
    assert {probe.measures for probe in with_probes(bare, PROBES).probes} == {"reversed", "elsewhere"}


def test_names_are_given_with_commas_and_a_wrong_one_is_named() -> None:
    assert parse_probe_names(["reversed,negation", "negation"]) == ("negation", "reversed")
    assert EvalConfig(probes=("negation,reversed",)).settings["probes"] == ["negation", "reversed"]


def test_metrics_by_hand() -> None:
    """A model that says the new object everywhere, and always yes: what each metric makes of it."""
    case = Case.of(with_probes(RECORD, PROBES))
    requests = requests_of(case)
    likely = {"Boston Celtics": 0.1, "Miami Heat": 2.0, "Yes": 0.5, "No": 0.7, "LeBron James": 3.0}
    scores = {pair: TokenScores(nll=likely[pair.candidate], accuracy=1.0, tokens=2) for pair in requests.pairs}
    texts = dict.fromkeys([text.prompt for text in requests.continued], "Boston Celtics, once of the Miami Heat.")
    of_templates = {name: metric for name, metric in TEMPLATE_METRICS.items() if name not in CONVERSATION_METRICS}
    values = {name: metric(case, Evidence(scores=scores, texts=texts)) for name, metric in of_templates.items()}
    assert values == {
        "negation.prob": 0.0,
        "fact-check.prob": 0.5,
        "distracting.prob": 0.0,
        "reversed.greedy": 0.0,
        "reversed.nll": 3.0,
        "elsewhere.greedy": 1.0,
        "refutation.greedy": 1.0,
    }
    (query,) = case.group("elsewhere")[0].queries
    right = texts | {generation_prompt(query): "Miami Heat"}
    assert TEMPLATE_METRICS["elsewhere.greedy"](case, Evidence(scores=scores, texts=right)) == 0.0
    scores |= {
        pair: TokenScores(nll=3.0, accuracy=1.0, tokens=2)
        for pair in scores
        if pair.prompt.startswith("It is not") and pair.candidate == "Boston Celtics"
    }
    assert TEMPLATE_METRICS["negation.prob"](case, Evidence(scores=scores, texts=texts)) == 1.0
    assert Pair(query.prompt, "Boston Celtics") in requests.pairs


@pytest.mark.slow
def test_run_asks_the_probes_of_both_models(smollm2: LanguageModel, tmp_path: Path) -> None:
    config = EvalConfig(probes=("negation,refutation",))
    summary = evaluate(find_method("rome").on(smollm2), smollm2, [RECORD], out=tmp_path / "run", config=config)
    for section in (summary.base, summary.edited):
        assert {"negation.prob", "refutation.greedy"} <= section.keys()
    assert summary.edited["efficacy.greedy"].mean == 1.0
