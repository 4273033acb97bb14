"""The class `Metric` (needs, requests, formula, source and function), and the functions from which metrics are built.

A metric of a probe has two parts: a function of one query (such as `nll` or `accuracy`), and the mean over the queries
of a group (`over_queries`), over its sub-categories (`over_categories`), or over competing answers (`over_rivals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from kg_edit.edits.record import Probe, Query
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.statistics import LARGEST_NLL
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.judging import is_likeliest
from kg_edit.scoring.questions import generation_prompt, pair_of, scoring_prompt
from kg_edit.scoring.requests import Requests, continue_query, join_requests
from kg_edit.text.matching import mentions

Better = Literal["higher", "lower", "neither"]
CATEGORIES = "If probes have sub-categories, the mean over the sub-categories of the mean over their probes (KnowEdit)."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of one record. Calling it gives its value, or None for a record without the parts that it needs.

    Attributes:
        compute: the function that computes the value.
        asks: what the model is asked about each query of the groups in ``needs`` (`kg_edit.scoring.requests`).
        asks_case: what else it is asked about a record, such as the targets after the prompts of its edits.
        formula: the definition of the value, in one or two sentences.
        source: its publication, and how this implementation differs.
        needs: the groups of probes (such as locality, ripple.RS) and the parts of an edit (target_true, paraphrases,
            neighborhood, questions) that a record must have; empty if every record has the metric.
        values: the range of its values, with the unit if there is one.
        better: which values are better.
        in_meaning: whether it compares the texts after its queries with their answers by `Evidence.cosines`, which the
            unedited model computes in the end.
    """

    compute: Callable[[Case, Evidence], float | None]
    formula: str
    source: str
    needs: tuple[str, ...]
    asks: tuple[Callable[[Query], Requests], ...] = ()
    asks_case: Callable[[Case], Requests] | None = None
    values: str = "0 to 1"
    better: Better = "higher"
    in_meaning: bool = False

    def __call__(self, case: Case, evidence: Evidence) -> float | None:
        """Compute the metric's value for a case from the model's evidence."""
        return self.compute(case, evidence)

    def requests(self, case: Case) -> list[Requests]:
        """Return what a model is asked about a case, so that its answers have all that `compute` reads."""
        requests = []
        if self.asks_case:
            requests.append(self.asks_case(case))
        for group in self.needs:
            for query in case.queries(group):
                requests += [ask(query) for ask in self.asks]
        return requests


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
    if not numbers:
        return None
    return fmean(numbers)


Compute = Callable[[Case, Evidence], float | None]
Matcher = Callable[[str, str], bool]  # text, name
ScoreQuery = Callable[[Query, Evidence], float | None]
ScoreRival = Callable[[Query, str, Evidence], float]


def over_queries(group: str, score_query: ScoreQuery) -> Compute:
    """Return a metric of a case: the mean over the queries of a group of probes."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        return mean(score_query(query, evidence) for query in case.queries(group))

    return compute


def over_rivals(group: str, score_rival: ScoreRival) -> Compute:
    """Return a metric of a case: the mean over the queries of a group and over the answers that compete with theirs."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        values = list[float]()
        for query in case.queries(group):
            values += [score_rival(query, rival, evidence) for rival in query.others]
        return mean(values)

    return compute


def over_categories(group: str, score_query: ScoreQuery) -> Compute:
    """Return a metric of a case: `average_categories` of a group."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        return average_categories(case, evidence, group, score_query)

    return compute


def average_categories(
    case: Case, evidence: Evidence, group: str, score_query: ScoreQuery, *, without_category: Iterable[float] = ()
) -> float | None:
    """Return the mean over the categories of ``group`` of the mean over their probes.

    The scores of questions ``without_category`` count as one further category.
    """
    categories: dict[str, list[float | None]] = {"": list(without_category)}  # no probe measures ""
    for probe in case.group(group):
        values = categories.setdefault(probe.measures, [])
        values.append(mean(score_query(query, evidence) for query in probe.queries))
    return mean(mean(values) for values in categories.values())


def share_passed(group: str, matches: Matcher) -> Compute:
    """Return a metric: the share of a group's probes that pass; ``matches`` decides whether a text gives an answer."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        return mean(passes(probe, evidence, matches) for probe in case.group(group))

    return compute


def passes(probe: Probe, evidence: Evidence, matches: Matcher) -> bool:
    """Return whether any, or all, of the probe's queries are answered correctly."""
    right = [answered(query, evidence, matches) for query in probe.queries]
    return any(right) if probe.passes == "any" else all(right)


def answered(query: Query, evidence: Evidence, matches: Matcher) -> bool:
    """Return whether the greedy continuation gives the answers: all of them or one, as the query asks."""
    text = evidence.texts[generation_prompt(query)]
    is_given = []  # for each right answer, whether the text gives it by one of its names
    for names in query.answers:
        is_given.append(any(matches(text, name) for name in names))
    return all(is_given) if query.every else any(is_given)


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
    return evidence.nll(scoring_prompt(query), other)


def rival_perplexity(query: Query, other: str, evidence: Evidence) -> float:
    """Return exp of `rival_nll`."""
    return math.exp(min(rival_nll(query, other, evidence), LARGEST_NLL))


def prefers_answer(query: Query, other: str, evidence: Evidence) -> float:
    """Return whether the answer is more probable per token than a competing one."""
    return float(nll(query, evidence) < rival_nll(query, other, evidence))


def unchanged(query: Query, evidence: Evidence) -> float | None:
    """Return the share of the answer's positions at which the arg-max token equals the unedited model's.

    None for the unedited model, and for an answer that the edited model reads as another number of tokens.
    """
    if evidence.before is None:
        return None
    before = evidence.before.predicted[pair_of(query)]
    after = evidence.predicted[pair_of(query)]
    if len(before) != len(after):  # MeLLo's "Final answer:" puts a space where the prompt has none: 日本的首都是
        return None
    return mean(old == new for old, new in zip(before, after, strict=True))


def same_text(query: Query, evidence: Evidence) -> float | None:
    """Return whether the compared part of the greedy text is the unedited model's; None for the unedited model."""
    if evidence.before is None:
        return None
    prompt = generation_prompt(query)
    return float(evidence.before.compared[prompt] == evidence.compared[prompt])


def continue_conditions(case: Case) -> Requests:
    """Return the request for continuations of the conditions of a case's probes."""
    requests = list[Requests]()
    for probe in case.probes:
        requests += [continue_query(condition) for condition in probe.conditions]
    return join_requests(requests)


def ripple_passed(group: str) -> Compute:
    """Return a metric: the share of a criterion's tests that pass, if the unedited model fulfils their conditions."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        unedited = evidence.before or evidence
        passed = []
        for probe in case.group(group):
            if all(answered(condition, unedited, mentions) for condition in probe.conditions):
                passed.append(passes(probe, evidence, mentions))
        return mean(passed)

    return compute


def most_probable(query: Query, evidence: Evidence) -> float:
    """Return whether the right label has the largest log p of all labels, summed over its tokens; ties are wrong."""
    prompt = scoring_prompt(query)
    right = evidence.score(prompt, query.answers[0][0])
    return float(is_likeliest(right, [evidence.score(prompt, label) for label in query.others]))


def prefers_positive(query: Query, evidence: Evidence) -> float | None:
    """Return the share of pairs of a positive and a negative reply in which the positive one is more probable."""
    prompt = scoring_prompt(query)
    good = [evidence.nll(prompt, names[0]) for names in query.answers]
    bad = [evidence.nll(prompt, other) for other in query.others]
    wins = list[bool]()
    for positive in good:
        wins += [positive < negative for negative in bad]
    return mean(wins)
