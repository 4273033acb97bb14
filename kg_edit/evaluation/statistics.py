"""Statistics of scores: means over records with bootstrap intervals, the editing score, and tests between two runs.

Two runs are compared on the same records: the mean difference with a paired bootstrap interval, McNemar's exact test
for scores of 0 and 1, sign flips for other scores, and Holm's correction for several metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

EDITING_SCORE = "editing_score"
SCORED = ("efficacy.prob", "paraphrase.prob", "neighborhood.prob", "portability.greedy")
PERPLEXITIES = {"span.nll": "span.perplexity", "specificity.nll": "specificity.perplexity"}
LARGEST_NLL = 700.0  # nats; exp of more overflows a float
_RESAMPLES = 1000

RecordScores = Mapping[str, float | None]
Table = NDArray[np.float64]
RESAMPLES = 10_000
_EXACT = 12  # up to this many records, all sign flips are tried
_CELLS = 4_000_000  # largest size of a table of resamples
Test = Literal["McNemar", "sign flips", "swaps"]


def random_numbers(seed: int) -> np.random.Generator:
    """Return the generator of a seed; NumPy takes no negative seed, so -1 counts as the pair 1, 1."""
    if seed < 0:
        return np.random.default_rng((-seed, 1))
    return np.random.default_rng(seed)


class Estimate(BaseModel):
    """A mean over records and its 95 % bootstrap interval.

    All are None if no record has the metric. One record has no interval, because the spread of one value is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float | None
    ci95_low: float | None
    ci95_high: float | None


def estimates(rows: Sequence[RecordScores], *, names: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Return the mean of each metric over ``rows`` (one a record), and the metrics derived from these means.

    The derived metrics are the editing score (`score_parts`), and a perplexity: exp of the mean of a span loss.
    The interval is the percentile bootstrap over records (Efron 1979); all metrics share the same resamples.
    """
    if not rows:
        rows = [dict.fromkeys(names)]  # one record without any metric
    values = _make_table(rows, names)  # [records, metrics]
    records = len(rows)
    # How often each record is drawn in each resample: [resamples, records]. All metrics share the resamples.
    drawn = random_numbers(seed).multinomial(records, [1 / records] * records, size=_RESAMPLES)
    sizes = counts(rows, names=names)
    means = _add_derived(_average_columns(values, np.ones((1, records))), names, sizes)  # of each metric [1]
    spread = _add_derived(_average_columns(values, drawn), names, sizes)  # of each metric [resamples]
    results = dict[str, Estimate]()
    for name, mean in means.items():
        if np.isnan(mean[0]):
            results[name] = Estimate(mean=None, ci95_low=None, ci95_high=None)
        else:
            low, high = _find_ends(spread[name], sizes[name])
            results[name] = Estimate(mean=float(mean[0]), ci95_low=low, ci95_high=high)
    return results


def _add_derived(means: Table, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, Table]:
    """Return the means [resamples, metrics] as a column [resamples] for each metric, with those of the derived metrics.

    These are computed from the means: a perplexity is exp of the mean loss, not the mean of exp.
    """
    columns = {name: means[:, index] for index, name in enumerate(names)}
    parts = score_parts(sizes)
    if parts:
        columns[EDITING_SCORE] = harmonic_mean(np.stack([columns[name] for name in parts], axis=1))
    for loss, perplexity in PERPLEXITIES.items():
        if loss in columns:
            columns[perplexity] = np.exp(np.minimum(columns[loss], LARGEST_NLL))
    return columns


def _make_table(rows: Sequence[RecordScores], names: Sequence[str]) -> Table:
    """Return the scores [records, metrics]; NaN where a record lacks a metric."""
    values = []
    for row in rows:
        values.append([row.get(name) for name in names])
    return np.array(values, dtype=np.float64)


def counts(rows: Sequence[RecordScores], *, names: Sequence[str]) -> dict[str, int]:
    """Return the number of ``rows`` with each metric; for the editing score, the number of its rarest part."""
    numbers = dict[str, int]()
    for name in names:
        numbers[name] = sum(row.get(name) is not None for row in rows)
    parts = score_parts(numbers)
    if parts:
        numbers[EDITING_SCORE] = min(numbers[name] for name in parts)
    for loss, perplexity in PERPLEXITIES.items():
        if loss in names:
            numbers[perplexity] = numbers[loss]
    return numbers


def score_parts(numbers: Mapping[str, int]) -> tuple[str, ...]:
    """Return the metrics whose harmonic mean is the editing score; none if ``numbers`` (of records) lacks one.

    Where no record has a portability question, as in CounterFact, these are the three of ROME's score.
    """
    if not set(SCORED[:3]) <= numbers.keys():
        return ()
    return SCORED if numbers.get(SCORED[3]) else SCORED[:3]


def metric_names(rows: Iterable[RecordScores]) -> tuple[str, ...]:
    """Return all metrics of ``rows``, in the order of their first occurrence."""
    names = dict[str, None]()
    for row in rows:
        names |= dict.fromkeys(row)
    return tuple(names)


def harmonic_mean(parts: NDArray[Any]) -> Table:
    """Return the harmonic mean over the last axis, k / sum(1 / x); 0 if a part is 0, NaN if a part is NaN."""
    with np.errstate(divide="ignore"):
        inverse = 1 / np.asarray(parts, float)
        return np.asarray(parts.shape[-1] / inverse.sum(-1))


def _average_columns(values: Table, drawn: NDArray[Any]) -> Table:
    """Return means [resamples, metrics] of values [records, metrics], weighted by ``drawn`` [resamples, records].

    mean_rm = sum_i drawn_ri v_im / sum_i drawn_ri,   i: the records with a value v_im
    """
    present = ~np.isnan(values)
    summed = drawn @ np.where(present, values, 0.0)
    counted = drawn @ present
    with np.errstate(invalid="ignore"):
        return np.asarray(summed / counted)


class Difference(BaseModel):
    """The mean difference of ``n`` records' scores, its 95 % bootstrap interval, and the p-value of no difference.

    The editing score's ``n`` is that of its rarest part. One record has no interval, as in an `Estimate`. ``p_holm`` is
    p after Holm's correction for all differences of the comparison.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    mean: float
    ci95_low: float | None
    ci95_high: float | None
    p: float
    test: Test
    p_holm: float | None = None

    @property
    def is_found(self) -> bool:
        """Whether the difference is significant: the corrected p is below 0.05."""
        return self.p_holm is not None and self.p_holm < 0.05


def paired_difference(first: Table, second: Table, *, seed: int) -> Difference | None:
    """Return ``second`` minus ``first``, the scores [records] of the same records; None if there is no record.

    The interval is the percentile bootstrap over records (Efron 1979). p is two-sided. For 0-1 scores it is that of
    McNemar's exact test (1947), for others that of the paired permutation test (Fisher 1935): the signs of the records'
    differences are flipped at random, or in all ways for up to 12 records.
    """
    change = second - first
    if not len(change):
        return None
    binary = bool(np.isin([first, second], (0.0, 1.0)).all())
    rng = random_numbers(seed)
    # The means of resamples; drawing their records is several times as fast as drawing how often each occurs.
    means = []
    for rows in _split_resamples(len(change)):
        drawn = rng.integers(len(change), size=(rows, len(change)))
        means.append(change[drawn].mean(1))
    spread = np.concatenate(means)
    average = float(change.mean())
    if binary:
        p = mcnemar(int((change > 0).sum()), int((change < 0).sum()))
        return _make_difference(len(change), average, spread, p, "McNemar")
    p = _test_sign_flips(change, rng)
    return _make_difference(len(change), average, spread, p, "sign flips")


def score_difference(first: Table, second: Table, *, seed: int) -> Difference | None:
    """Return the difference of two editing scores, from the scores [records, parts] of two runs.

    An editing score is the harmonic mean over parts of the means over records. A part that a record lacks is NaN in
    both tables. p is that of the permutation test that swaps a record's scores between the two runs.
    """
    present = ~np.isnan(first)
    if not present.any(0).all():
        return None
    old = np.where(present, first, 0.0)  # [records, parts]
    new = np.where(present, second, 0.0)
    rng = random_numbers(seed)

    def difference(weights: NDArray[Any]) -> Table:
        """Return the difference of the editing scores over records weighed by ``weights`` [resamples, records]."""
        counted = weights @ present
        with np.errstate(invalid="ignore"):
            return harmonic_mean((weights @ new) / counted) - harmonic_mean((weights @ old) / counted)

    observed = float(difference(np.ones((1, len(first))))[0])
    changes = []
    for rows in _split_resamples(len(first)):
        # How often each record is drawn in some resamples, [resamples, records]
        drawn = rng.multinomial(len(first), [1 / len(first)] * len(first), size=rows)
        changes.append(difference(drawn))
    spread = np.concatenate(changes)
    p = _swap_scores(old, new, present.sum(0), observed, rng)
    return _make_difference(int(present.sum(0).min()), observed, spread, p, "swaps")


def _swap_scores(old: Table, new: Table, counts: NDArray[Any], observed: float, rng: np.random.Generator) -> float:
    """Return the p-value of the permutation test: each record whose coin is 1 swaps its scores [records, parts].

    Its change then leaves the sum of one run and enters the other's. ``counts`` [parts] are the records of each part.
    """
    change = new - old
    swapped = []
    for coins in _throw_coins(len(old), rng):  # [resamples, records]
        swapped_new = harmonic_mean((new.sum(0) - coins @ change) / counts)
        swapped_old = harmonic_mean((old.sum(0) + coins @ change) / counts)
        swapped.append(swapped_new - swapped_old)
    return _find_share_as_large(np.concatenate(swapped), observed)


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided exact p of McNemar's test: that of a fair coin thrown once for each changed record.

    p = min(1, 2 sum_(k <= min(gained, lost)) C(n, k) / 2^n),   n = gained + lost
    """
    # term: C(n, k) in whole numbers, which can't overflow
    changed = gained + lost
    term = 1
    total = 0
    for heads in range(min(gained, lost) + 1):
        total += term
        term = term * (changed - heads) // (heads + 1)
    return float(min(1, 2 * total / 2**changed))


def holm(values: Sequence[float]) -> list[float]:
    """Return the p-values in their given order, corrected for multiple tests (Holm 1979).

    The k-th smallest of m values becomes (m - k + 1) p, but never less than the one before it.
    """
    corrected = [0.0] * len(values)
    least = 0.0
    ascending = sorted(range(len(values)), key=values.__getitem__)
    for rank, index in enumerate(ascending):  # rank = k - 1
        least = max(least, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = least
    return corrected


def _make_difference(n: int, mean: float, spread: Table, p: float, test: Test) -> Difference:
    low, high = _find_ends(spread, n)
    return Difference(n=n, mean=mean, ci95_low=low, ci95_high=high, p=p, test=test)


def _find_ends(spread: Table, n: int) -> tuple[float, float] | tuple[None, None]:
    """Return the ends of the 95 % interval of resampled values of ``n`` records. NaN: a resample without the metric."""
    if n < 2:
        return None, None
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return float(low), float(high)


def _test_sign_flips(change: Table, rng: np.random.Generator) -> float:
    """Return the p-value of the sums of ``change`` [records] with flipped signs."""
    observed = float(change.sum())
    if len(change) <= _EXACT:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(change))))  # all patterns, [2^records, records]
        return float(_find_as_large(signs @ change, observed).mean())
    sums = np.concatenate([(2.0 * heads - 1.0) @ change for heads in _throw_coins(len(change), rng)])
    return _find_share_as_large(sums, observed)


def _find_share_as_large(drawn: Table, observed: float) -> float:
    """Return the p-value of ``observed``: the share of values at least as far from 0, ``observed`` included."""
    return float((1 + _find_as_large(drawn, observed).sum()) / (1 + len(drawn)))


def _find_as_large(drawn: Table, observed: float) -> NDArray[np.bool_]:
    """Return which values are at least as far from 0 as ``observed``; sums that differ only by rounding are equal."""
    return np.abs(drawn) >= abs(observed) - max(1e-12, 1e-10 * float(np.abs(drawn).max()))


def _throw_coins(records: int, rng: np.random.Generator) -> Iterator[NDArray[Any]]:
    """Yield tables [some resamples, records] of fair coins, 0 or 1."""
    for rows in _split_resamples(records):
        yield rng.integers(0, 2, size=(rows, records)).astype(np.float64)


def _split_resamples(records: int) -> Iterator[int]:
    """Yield numbers of resamples that add up to `RESAMPLES`, each small enough for one table of so many ``records``."""
    size = max(1, _CELLS // records)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
