"""Perplexities of true, hallucinated and accurate sentences, from losses by hand and from a model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kg_edit.datasets import find_dataset
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.catalogue import metrics_for
from kg_edit.evaluation.metrics.metric import Evidence
from kg_edit.evaluation.metrics.probes import PROBE_METRICS
from kg_edit.evaluation.retention import RetentionTest, read_retention_test
from kg_edit.scoring.likelihood import Pair, TokenScores, score
from tests.kg_edit.datasets.rows import WIKIBIO, written
from tests.kg_edit.tiny import tiny

METRICS = {name: metric for name, metric in PROBE_METRICS.items() if set(metric.needs) & {"hallucination", "accurate"}}


def case(folder: Path) -> Case:
    (record,) = find_dataset("wikibio")(written(folder, WIKIBIO))
    return Case.of(record)


def test_perplexities_by_hand(tmp_path: Path) -> None:
    asked = case(tmp_path)
    nll = {"She wrote notes on an engine.": 2.0, "Rome saw plays.": 3.0, "Ada Byron was a poet.": 1.0}
    scores = {pair: TokenScores(nll=nll.get(pair.candidate, 5.0), accuracy=0.0) for pair in asked.pairs}
    found = {name: metric(asked, Evidence(scores=scores)) for name, metric in METRICS.items()}
    assert found["hallucination.true.perplexity"] == pytest.approx(math.exp(2))
    assert found["hallucination.own.perplexity"] == pytest.approx(math.exp(3))
    assert found["hallucination.prob"] == 1.0
    assert found["accurate.perplexity"] == pytest.approx((math.exp(1) + math.exp(5)) / 2), "a mean of perplexities"


def test_case_of_wikibio_has_its_metrics(tmp_path: Path) -> None:
    asked = case(tmp_path)
    assert set(METRICS) <= set(metrics_for(asked))
    evidence = Evidence(scores=score(tiny("llama"), asked.pairs))
    assert all(metric(asked, evidence) is not None for metric in METRICS.values())


def test_retention_has_the_perplexity_of_accurate_sentences(tmp_path: Path) -> None:
    test, model = read_retention_test(written(tmp_path, WIKIBIO)), tiny("llama")
    assert test.queries == () and len(test.accurate) == 2
    test.check(model)
    record = case(tmp_path)
    found = test.scores(model, [record.edit], before=())
    pairs = [Pair(query.prompt, query.answers[0][0]) for query in test.accurate]
    losses = score(model, pairs)
    wanted = math.exp(sum(losses[pair].nll for pair in pairs) / 2)
    assert found["retention.ARR.perplexity"] == pytest.approx(wanted, rel=1e-4)
    assert found["retention.ARR"] is None and found["retention.TRR"] is None and found["retention.ERR"] == 0.0
    assert test.digest != RetentionTest(()).digest and RetentionTest((), test.accurate[:1]).digest != test.digest
