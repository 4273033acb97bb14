"""The perplexity of sentences that are known to be accurate, as a run's retention."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.retention import RetentionTest, read_retention_test
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.kg_edit.evaluation.datasets.rows import WIKIBIO, written
from tests.kg_edit.tiny import tiny


def test_retention_has_the_perplexity_of_accurate_sentences(tmp_path: Path) -> None:
    test, model = read_retention_test(written(tmp_path, WIKIBIO)), tiny("llama")
    assert test.queries == () and len(test.accurate) == 2
    test.check(model)
    (record,) = find_dataset("wikibio")(written(tmp_path, WIKIBIO))
    scores = test.scores(model, record.edits, before=())
    pairs = [Pair(query.prompt, query.answers[0][0]) for query in test.accurate]
    losses = score(model, pairs)
    expected = math.exp(sum(losses[pair].nll for pair in pairs) / 2)
    assert scores["retention.ARR.perplexity"] == pytest.approx(expected, rel=1e-4)
    assert scores["retention.ARR"] is None and scores["retention.TRR"] is None and scores["retention.ERR"] == 0.0
    assert test.digest != RetentionTest(()).digest and RetentionTest((), test.accurate[:1]).digest != test.digest
