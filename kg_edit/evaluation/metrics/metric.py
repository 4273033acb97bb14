"""The classes `Metric` (needs, formula, source and function) and `Evidence` (what a model answered to a case), and the
functions from which the metrics of probes are built.

A metric of a probe has two parts: a function of one query (such as `nll` or `accuracy`), and the mean over the queries
of a group (`over_queries`), over its sub-categories (`over_categories`), or over competing answers (`over_rivals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from kg_edit.edits.record import Probe, Query
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.statistics import LARGEST_NLL
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.questions import generated_from, pair_of, scored_after
from kg_edit.text.matching import mentions

Better = Literal["higher", "lower", "neither"]
CATEGORIES = "If probes have sub-categories, the mean over the sub-categories of the mean over their probes (KnowEdit)."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of one record. Calling it gives its value, or None for a record without the parts that it needs.

    Attributes:
        compute: the function that computes the value.
        formula: the definition of the value, in one or two sentences.
        source: its publication, and how this implementation differs.
        needs: the groups of probes (such as locality, ripple.RS) and the parts of an edit (target_true, paraphrases,
            neighborhood, questions) that a record must have; empty if every record has the metric.
        values: the range of its values, with the unit if there is one.
        better: which values are better.
    """

    compute: Callable[[Case, Evidence], float | None]
    formula: str
    source: str
    needs: tuple[str, ...]
    values: str = "0 to 1"
    better: Better = "higher"

    def __call__(self, case: Case, evidence: Evidence) -> float | None:
        """Compute the metric's value for a case from the model's evidence."""
        return self.compute(case, evidence)


@dataclass(frozen=True, kw_only=True)
class RunMetric:
    """A metric of a whole model or run; ``where`` is the path of the function or class that computes it."""

    where: str
    formula: str
    source: str
    values: str = "0 to 1"
    better: Better = "higher"


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if all are None."""
    numbers = [float(value) for value in values if value is not None]
    return fmean(numbers) if numbers else None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The results of a model for a case's prompts, and those of the unedited model if this one is edited.

    Attributes:
        scores: the scores of (prompt, candidate) pairs.
        texts: greedy continuations by prompt.
        compared: the parts of them that are compared with the unedited model's, by prompt.
        predicted: the arg-max token ids at a candidate's positions, by pair.
        samples: each prompt with the text sampled after it, by prompt.
        cosines: the similarity of a generated text and its target, by (text, target); empty if it was not computed.
        next_tokens: log p of the unedited model's likeliest next tokens, by prompt and token.
        before: the unedited model's evidence, with ``texts``, ``compared``, ``predicted`` and ``next_tokens`` only;
            None if this is the unedited model's.
    """

    scores: Mapping[Pair, TokenScores] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    compared: Mapping[str, str] = field(default_factory=dict)
    predicted: Mapping[Pair, tuple[int, ...]] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)
    next_tokens: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    cosines: Mapping[tuple[str, str], float] = field(default_factory=dict)
    before: Evidence | None = None

    def nll(self, prompt: str, candidate: str) -> float:
        """Return the candidate's mean negative log-likelihood per token, in nats."""
        return self.score(prompt, candidate).nll

    def score(self, prompt: str, candidate: str) -> TokenScores:
        """Return the candidate's teacher-forced scores after a prompt."""
        return self.scores[Pair(prompt.rstrip(), candidate)]


Compute = Callable[[Case, Evidence], float | None]
Judge = Callable[[str, str], bool]  # text, name
OfQuery = Callable[[Query, Evidence], float | None]
OfRival = Callable[[Query, str, Evidence], float]


def over_queries(group: str, of_query: OfQuery) -> Compute:
    """Return a metric of a case: the mean over the queries of a group of probes."""
    return lambda case, evidence: mean(
        of_query(query, evidence) for probe in case.group(group) for query in probe.queries
    )


def over_rivals(group: str, of_rival: OfRival) -> Compute:
    """Return a metric of a case: the mean over the queries of a group and over the answers that compete with theirs."""
    return lambda case, evidence: mean(
        of_rival(query, other, evidence)
        for probe in case.group(group)
        for query in probe.queries
        for other in query.others
    )


def over_categories(group: str, of_query: OfQuery) -> Compute:
    """Return a metric of a case: `by_category` of a group."""
    return lambda case, evidence: by_category(case, evidence, group, of_query)


def by_category(
    case: Case, evidence: Evidence, group: str, of_query: OfQuery, *, extra: Iterable[float] = ()
) -> float | None:
    """Return the mean over the categories of ``group`` of the mean over their probes; ``extra`` is a further one."""
    categories: dict[str, list[float | None]] = {"": list(extra)}
    for probe in case.group(group):
        values = categories.setdefault(probe.measures, [])
        values.append(mean(of_query(query, evidence) for query in probe.queries))
    return mean(mean(values) for values in categories.values())


def share_passed(group: str, judge: Judge) -> Compute:
    """Return a metric: the share of a group's probes that pass; ``judge`` decides whether a text gives an answer."""
    return lambda case, evidence: mean(passes(probe, evidence, judge) for probe in case.group(group))


def passes(probe: Probe, evidence: Evidence, judge: Judge) -> bool:
    """Return whether any, or all, of the probe's queries are answered correctly."""
    return (any if probe.passes == "any" else all)(answered(query, evidence, judge) for query in probe.queries)


def answered(query: Query, evidence: Evidence, judge: Judge) -> bool:
    """Return whether the greedy continuation gives the answers: all of them or one, as the query asks."""
    text = evidence.texts[generated_from(query)]
    return (all if query.every else any)(any(judge(text, name) for name in names) for names in query.answers)


def mentioned(query: Query, evidence: Evidence) -> float:
    """Return whether the greedy continuation contains the answers as whole words."""
    return float(answered(query, evidence, mentions))


def nll(query: Query, evidence: Evidence) -> float:
    """Return -log p of the answer, mean over its tokens, in nats."""
    return evidence.scores[pair_of(query)].nll


def accuracy(query: Query, evidence: Evidence) -> float:
    """Return the share of arg-max tokens in the answer, given the right tokens before them."""
    return evidence.scores[pair_of(query)].accuracy


def perplexity(query: Query, evidence: Evidence) -> float:
    """Return exp of `nll`."""
    return math.exp(min(nll(query, evidence), LARGEST_NLL))


def rival_nll(query: Query, other: str, evidence: Evidence) -> float:
    """Return -log p of a competing answer, mean over its tokens, in nats."""
    return evidence.nll(scored_after(query), other)


def prefers_answer(query: Query, other: str, evidence: Evidence) -> float:
    """Return whether the answer is more probable per token than a competing one."""
    return float(nll(query, evidence) < rival_nll(query, other, evidence))


def unchanged(query: Query, evidence: Evidence) -> float | None:
    """Return the share of the answer's positions at which the arg-max token equals the unedited model's.

    None for the unedited model, and for an answer that the edited model reads as another number of tokens.
    """
    if evidence.before is None:
        return None
    before, after = (side.predicted[pair_of(query)] for side in (evidence.before, evidence))
    if len(before) != len(after):  # MeLLo's "Final answer:" puts a space where the prompt has none: 日本的首都是
        return None
    return mean(old == new for old, new in zip(before, after, strict=True))


def same_text(query: Query, evidence: Evidence) -> float | None:
    """Return whether the compared part of the greedy text is the unedited model's; None for the unedited model."""
    prompt = generated_from(query)
    return None if evidence.before is None else float(evidence.before.compared[prompt] == evidence.compared[prompt])


def ripple_passed(group: str) -> Compute:
    """Return a metric: the share of a criterion's tests that pass, if the unedited model fulfils their conditions."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        unedited = evidence.before or evidence
        counted = (
            probe
            for probe in case.group(group)
            if all(answered(condition, unedited, mentions) for condition in probe.conditions)
        )
        return mean(passes(probe, evidence, mentions) for probe in counted)

    return compute


def most_probable(query: Query, evidence: Evidence) -> float:
    """Return whether the right label has the largest log p of all labels, summed over its tokens; ties are wrong."""
    prompt = scored_after(query)
    right, *others = (evidence.score(prompt, label).total_nll for label in (query.answers[0][0], *query.others))
    return float(all(right < other for other in others))


def prefers_positive(query: Query, evidence: Evidence) -> float | None:
    """Return the share of pairs of a positive and a negative reply in which the positive one is more probable."""
    prompt = scored_after(query)
    good = [evidence.nll(prompt, names[0]) for names in query.answers]
    bad = [evidence.nll(prompt, other) for other in query.others]
    return mean(first < second for first in good for second in bad)
