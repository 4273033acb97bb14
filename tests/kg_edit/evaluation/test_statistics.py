"""Statistics on numbers made by hand, or whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from kg_edit.evaluation.statistics import (
    EDITING_SCORE,
    SCORED,
    Estimate,
    counts,
    estimates,
    harmonic_mean,
    holm,
    mcnemar,
    paired_difference,
    score_difference,
)


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(np.array([1.0, 0.5, 0.25])) == pytest.approx(3 / 7)
    assert harmonic_mean(np.array([1.0, 0.0])) == 0
    assert np.isnan(harmonic_mean(np.array([1.0, np.nan])))


def test_missing_values_are_left_out() -> None:
    rows: list[dict[str, float | None]] = [{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 0.0}]
    means = estimates(rows, names=("a", "b"), seed=0)
    assert means["a"].mean == 0.5
    assert means["b"] == Estimate(mean=None, ci95_low=None, ci95_high=None)
    assert counts(rows, names=("a", "b")) == {"a": 2, "b": 0}


def test_editing_score_counts_as_its_rarest_part() -> None:
    rows = [dict.fromkeys(SCORED, 1.0), dict.fromkeys(SCORED[:3], 1.0)]
    assert counts(rows, names=SCORED) == {**dict.fromkeys(SCORED[:3], 2), SCORED[3]: 1, EDITING_SCORE: 1}


def test_editing_score_combines_the_data_sets_means() -> None:
    rows = [dict.fromkeys(SCORED, 1.0), dict.fromkeys(SCORED, 0.0) | {"efficacy.prob": 1.0}]
    score = estimates(rows, names=SCORED, seed=0)[EDITING_SCORE]
    assert score.mean == pytest.approx(4 / (1 + 2 + 2 + 2))
    assert (score.ci95_low, score.ci95_high) == (0, 1)


def test_no_editing_score_without_its_parts() -> None:
    assert EDITING_SCORE not in estimates([{"a": 1.0}], names=("a",), seed=0)
    assert EDITING_SCORE not in estimates([dict.fromkeys(SCORED[1:], 1.0)], names=SCORED[1:], seed=0)


@pytest.mark.parametrize("names", [SCORED, SCORED[:3]])
def test_editing_score_without_questions_is_that_of_rome(names: tuple[str, ...]) -> None:
    score = estimates([dict(zip(SCORED, (1.0, 0.5, 0.5), strict=False))], names=names, seed=0)[EDITING_SCORE]
    assert score.mean == pytest.approx(3 / (1 + 2 + 2))


def test_interval_is_the_means_spread() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    estimate = estimates([{"a": float(value)} for value in values], names=("a",), seed=0)["a"]
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.ci95_low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.05)
    assert estimate.ci95_high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.05)


def test_one_record_has_a_mean_without_an_interval() -> None:
    rows = [dict.fromkeys(SCORED, 1.0), dict.fromkeys(SCORED[:3], 0.0)]
    means = estimates(rows, names=SCORED, seed=0)
    assert means[SCORED[0]].ci95_low == 0.0
    for lone in (SCORED[3], EDITING_SCORE):  # only the first record has the last part
        assert means[lone].mean is not None
        assert (means[lone].ci95_low, means[lone].ci95_high) == (None, None)
    parts = [[[row.get(name, np.nan) for name in SCORED] for row in sample] for sample in (rows, rows[:1] * 2)]
    score = score_difference(np.array(parts[0]), np.where(np.isnan(parts[0]), np.nan, parts[1]), seed=0)
    change = paired_difference(np.array([1.0]), np.array([0.5]), seed=0)
    assert score is not None and change is not None
    assert (score.n, score.ci95_low, change.n, change.ci95_low, change.mean) == (1, None, 1, None, -0.5)


def test_negative_seed_gives_intervals_of_its_own() -> None:
    rows = [dict.fromkeys(SCORED, value / 9) for value in range(1, 9)]
    results = [estimates(rows, names=SCORED, seed=seed) for seed in (-1, -1, 1)]
    assert results[0] == results[1] != results[2]
    scores = np.array([list(row.values()) for row in rows])
    assert score_difference(scores, scores[::-1], seed=-1) is not None
    assert paired_difference(scores[:, 0], scores[::-1, 0], seed=-1) is not None


def test_no_records_give_no_mean() -> None:
    assert estimates([], names=SCORED, seed=0)[EDITING_SCORE].mean is None
    assert counts([], names=SCORED)[EDITING_SCORE] == 0


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (0, 5, 2 / 32), (8, 2, 2 * (1 + 10 + 45) / 1024), (3, 3, 1.0)],
)
def test_mcnemar_by_hand(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_of_many_records_neither_overflows_nor_ends() -> None:
    assert mcnemar(10_000, 10_000) == 1.0
    assert 0 <= mcnemar(0, 20_000) < 1e-300


def test_scores_of_0_and_1_are_tested_by_mcnemar() -> None:
    first, second = np.array([0.0, 0, 0, 0, 0, 1]), np.array([1.0, 1, 1, 1, 1, 1])
    difference = paired_difference(first, second, seed=0)
    assert difference is not None
    assert (difference.test, difference.n) == ("McNemar", 6)
    assert difference.mean == pytest.approx(5 / 6)
    assert difference.p == pytest.approx(2 / 32)


def test_others_by_all_sign_flips_where_they_are_few() -> None:
    """Of the 8 sums ±1 ±2 ±4 two are as far from 0 as 7, and four as 5."""
    difference = paired_difference(np.zeros(3), np.array([1.0, 2.0, 4.0]), seed=0)
    assert difference is not None
    assert (difference.test, difference.p) == ("sign flips", 2 / 8)
    other = paired_difference(np.zeros(3), np.array([-1.0, 2.0, 4.0]), seed=0)
    assert other is not None
    assert other.p == 4 / 8


@pytest.mark.parametrize("records", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_sign_flips_of_large_scores_are_those_of_small_ones(records: int) -> None:
    """Rounded sums of perplexities are equal to the one that was found: p is not too small, and never 0."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        change = np.where(np.arange(records) < 4, rng.random(records), 0.0)
        few, many = (paired_difference(np.zeros(records), scale * change, seed=0) for scale in (1.0, 1e6))
        assert few is not None and many is not None
        assert many.p == few.p > 0.1


def test_many_sign_flips_are_as_the_normal_law_has_it() -> None:
    """400 differences of mean .1 and deviation 1: z = 2, p about .0455."""
    change = np.random.default_rng(3).normal(size=400)
    change = (change - change.mean()) / change.std() + 0.1
    difference = paired_difference(np.zeros(400), change, seed=0)
    assert difference is not None
    assert difference.p == pytest.approx(0.0455, abs=0.01)
    assert (difference.ci95_low, difference.ci95_high) == pytest.approx((0.002, 0.198), abs=0.01)


@pytest.mark.slow
def test_chance_gives_p_below_5_percent_in_5_of_100() -> None:
    """Under no difference p < .05 in about 5 of 100 trials: more than 12, or none in 200, would be a wrong test."""
    rng = np.random.default_rng(0)
    differences = [paired_difference(rng.normal(size=40), rng.normal(size=40), seed=seed) for seed in range(100)]
    assert 0 < sum(difference.p < 0.05 for difference in differences if difference) <= 12


def test_seeds_decide_intervals_and_p() -> None:
    values = np.random.default_rng(1).normal(size=(2, 30))
    first, again, other = (paired_difference(*values, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_records_give_no_difference() -> None:
    assert paired_difference(np.array([]), np.array([]), seed=0) is None
    same = paired_difference(np.array([0.5, 0.25]), np.array([0.5, 0.25]), seed=0)
    assert same is not None
    assert (same.mean, same.p) == (0, 1)


def test_score_is_the_harmonic_mean_of_means() -> None:
    """Means (.5, 1) and (1, 1): 2/3 and 1."""
    first, second = np.array([[0.0, 1], [1, 1]]), np.array([[1.0, 1], [1, 1]])
    difference = score_difference(first, second, seed=0)
    assert difference is not None
    assert difference.mean == pytest.approx(1 / 3)
    assert difference.p == pytest.approx(1, abs=0.01)  # swapping one record only turns the sign


def test_part_that_a_record_lacks_is_left_out_of_its_mean() -> None:
    nan = np.nan
    first, second = np.array([[0.5, 1], [0.5, nan]]), np.array([[1.0, 0.5], [1.0, nan]])
    difference = score_difference(first, second, seed=0)
    assert difference is not None
    assert difference.mean == pytest.approx(2 / (1 + 2) - 2 / (2 + 1))
    assert score_difference(np.array([[nan, 1.0]]), np.array([[nan, 1.0]]), seed=0) is None


def test_large_difference_of_scores_is_found() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0, 0.4, size=(50, 4)), rng.uniform(0.6, 1, size=(50, 4))
    difference = score_difference(first, second, seed=0)
    assert difference is not None
    assert difference.ci95_low is not None
    assert difference.p < 0.001 < difference.ci95_low


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
