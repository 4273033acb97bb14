from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import Probe, Query
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets import known_datasets
from kg_edit.evaluation.metrics.catalogue import (
    CATALOGUE,
    RECORD_METRICS,
    RUN_METRICS,
    find_extras,
    metrics_for,
    metrics_page,
    requests_of,
    shown_name,
)
from kg_edit.evaluation.metrics.edit import METRICS, PORTABILITY
from kg_edit.evaluation.template_probes import PROBES
from kg_edit.scoring.evidence import Evidence, Exchange
from kg_edit.scoring.pairs import TokenScores

PAGE = Path(__file__).resolve().parents[4] / "docs" / "metrics.md"
PROTOCOLS = {
    "hop_share",
    "loose",
    "strict",
    "hop_wise",
    "perplexity",
    "prob",
    "greedy",
    "greedy_old",
    "magnitude",
    "steps",
    "teacher_forced",
    "next_token_kl",
    "nll",
    "choice",
    "unchanged",
    "substring",
    "any_of_3",
    "edit_wise",
    "first_sentence",
    "same_text",
    "instance_wise",
    "glame_fuzzy",
    "ngram_entropy",
    "tfidf",
}


@pytest.mark.slow
def test_catalogue_needs_no_torch() -> None:
    code = "import sys, kg_edit.evaluation.metrics.catalogue; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_hold_their_protocol() -> None:
    for name in RECORD_METRICS:
        assert name.rpartition(".")[2] in PROTOCOLS or name.startswith("ripple."), name


def test_every_metric_is_documented() -> None:
    page = metrics_page()
    for name in CATALOGUE:
        assert f"`{shown_name(re.sub(r'[234]_hops[.]', '', name))}`" in page  # one line for all numbers of hops
    for dataset in known_datasets().values():  # whose groups are the GROUP and SUB of a name
        assert all(f"`{group}`" in page for group in dataset.measures)


def test_every_group_of_probes_has_a_metric() -> None:
    for dataset in known_datasets().values():
        for group in dataset.measures:
            names = {group, group.partition(".")[0]}
            assert any(names.intersection(metric.needs) for metric in RECORD_METRICS.values()), group


def test_what_a_metric_needs_is_what_the_records_of_a_data_set_may_have() -> None:
    may_have = []
    for dataset in known_datasets().values():
        parts = {*dataset.measures, *dataset.edits_have, *PROBES, "portability"}
        may_have.append(parts | {part.partition(".")[0] for part in parts})
    for name, metric in RECORD_METRICS.items():
        assert isinstance(metric.needs, tuple) and any(map(set(metric.needs).issubset, may_have)), name


class Noted(dict[Any, Any]):
    """Has one value under every key, and notes the keys that are read."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value, self.read = value, set[Any]()

    def __getitem__(self, key: Any) -> Any:
        self.read.add(key)
        return self.value


@pytest.mark.parametrize(
    "group", sorted({name for ds in known_datasets().values() for name in ds.measures} | PROBES.keys())
)
def test_model_is_asked_nothing_that_no_metric_reads(group: str) -> None:
    edit = Edit(subject="Ada", prompt="{} is", target_new="old")
    query = Query(prompt="Where?", answers=(("Rome",),), others=("Oslo",), old=("Bern",))
    probed, bare = Case(edit=edit, probes=(Probe(measures=group, queries=(query,)),)), Case(edit=edit)
    scores, texts = Noted(TokenScores(1.0, 1.0)), Noted("Rome")
    exchanges = Noted(Exchange("Rome", "Rome"))
    evidence = Evidence(scores=scores, texts=texts, compared=texts, predicted=Noted((1,)), exchanges=exchanges)
    for metric in metrics_for(probed).values():
        metric(probed, replace(evidence, before=evidence))
    asked, always = requests_of(probed), requests_of(bare)
    assert {*asked.pairs} - {*always.pairs} <= scores.read
    assert {text.prompt for text in asked.continued} <= texts.read
    assert {*asked.conversations} <= exchanges.read


def test_run_metrics_name_the_function_that_computes_them() -> None:
    for metric in RUN_METRICS.values():
        module, _, name = metric.where.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_page_equals_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == metrics_page(), (
        "write it anew: kg-edit metrics --markdown > docs/metrics.md"
    )


def test_record_has_the_metrics_of_its_probes(edits: tuple[Edit, ...]) -> None:
    assert metrics_for(Case(edit=edits[0])) == METRICS
    assert metrics_for(Case(edit=edits[0], facts=("It rains.",), ceiling=True)) == PORTABILITY
    probes = tuple(Probe(measures=name, queries=()) for name in ("ripple.RS", "locality.Forgetfulness"))
    metrics = metrics_for(Case(edit=edits[0], probes=probes))
    assert [name for name in metrics if name not in METRICS] == [
        "locality.greedy",
        "locality.teacher_forced",
        "locality.unchanged",
        "locality.Forgetfulness.greedy",
        "locality.Forgetfulness.unchanged",
        "ripple.RS",
    ]


def test_extras_by_name() -> None:
    assert find_extras(["consistency.tfidf", "fluency.ngram_entropy"]) == ("fluency.ngram_entropy", "consistency.tfidf")
