from __future__ import annotations

import numpy as np
import pytest

from kg_edit.evaluate.statistics import EDITING_SCORE, SCORED, Estimate, counts, estimates, harmonic_mean


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(np.array([1.0, 0.5, 0.25])) == pytest.approx(3 / 7)
    assert harmonic_mean(np.array([1.0, 0.0])) == 0
    assert np.isnan(harmonic_mean(np.array([1.0, np.nan])))


def test_missing_values_are_left_out() -> None:
    rows: list[dict[str, float | None]] = [{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 0.0}]
    found = estimates(rows, names=("a", "b"), seed=0)
    assert found["a"].mean == 0.5
    assert found["b"] == Estimate(mean=None, ci95_low=None, ci95_high=None)
    assert counts(rows, names=("a", "b")) == {"a": 2, "b": 0}


def test_the_editing_score_counts_as_its_rarest_part() -> None:
    rows = [dict.fromkeys(SCORED, 1.0), dict.fromkeys(SCORED[:3], 1.0)]
    assert counts(rows, names=SCORED) == {**dict.fromkeys(SCORED[:3], 2), SCORED[3]: 1, EDITING_SCORE: 1}


def test_the_editing_score_combines_the_data_sets_means() -> None:
    rows = [dict.fromkeys(SCORED, 1.0), dict.fromkeys(SCORED, 0.0) | {"efficacy.prob": 1.0}]
    found = estimates(rows, names=SCORED, seed=0)[EDITING_SCORE]
    assert found.mean == pytest.approx(4 / (1 + 2 + 2 + 2))
    assert (found.ci95_low, found.ci95_high) == (0, 1)


def test_no_editing_score_without_its_parts() -> None:
    assert EDITING_SCORE not in estimates([{"a": 1.0}], names=("a",), seed=0)
    assert estimates([dict.fromkeys(SCORED[:3], 1.0)], names=SCORED, seed=0)[EDITING_SCORE].mean is None


def test_the_interval_is_the_means_spread() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = estimates([{"a": float(value)} for value in values], names=("a",), seed=0)["a"]
    assert found.mean == pytest.approx(values.mean())
    assert found.ci95_low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.05)
    assert found.ci95_high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.05)


def test_seeds_decide_the_interval() -> None:
    rows = [{"a": float(value)} for value in range(9)]
    first, again, other = (estimates(rows, names=("a",), seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_no_records() -> None:
    assert estimates([], names=SCORED, seed=0)[EDITING_SCORE].mean is None
    assert counts([], names=SCORED)[EDITING_SCORE] == 0
