"""How the metrics of probes are computed; what they are called and where they come from is in `probe_metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kg_edit.datasets.record import Probe, Query
from kg_edit.evaluate.metrics.metric import mean
from kg_edit.evaluate.pair import Pair, TokenScores
from kg_edit.scoring.questions import generated_from, scored_after
from kg_edit.text.matching import mentions

if TYPE_CHECKING:
    from kg_edit.evaluate.case import Case
    from kg_edit.evaluate.evidence import Evidence

Judge = Callable[[str, str], bool]  # text, name
OfQuery = Callable[[Query, "Evidence"], float | None]


def by_category(
    case: Case, evidence: Evidence, group: str, of_query: OfQuery, *, besides: Iterable[float] = ()
) -> float | None:
    """The mean over the categories of ``group`` of the mean over their probes; ``besides`` is a category more."""
    categories: dict[str, list[float | None]] = {"": list(besides)}
    for probe in case.group(group):
        values = categories.setdefault(probe.measures, [])
        values.append(mean(of_query(query, evidence) for query in probe.queries))
    return mean(mean(values) for values in categories.values())


def mentioned(query: Query, evidence: Evidence) -> float | None:
    """Whether the greedy continuation says the answers (all, or one, as the query has it) as whole words."""
    return float(_answered(query, evidence, mentions))


def first_score(query: Query, evidence: Evidence) -> TokenScores:
    """The scores of the first answer's name, teacher-forced."""
    return evidence.scores[pair_of(query)]


def pair_of(query: Query) -> Pair:
    """The prompt in scored form, and the first answer's name."""
    return Pair(scored_after(query), query.answers[0][0])


def passes(probe: Probe, evidence: Evidence, judge: Judge) -> bool:
    """Whether any, or all, of the probe's queries are answered rightly."""
    return (any if probe.passes == "any" else all)(_answered(query, evidence, judge) for query in probe.queries)


def _answered(query: Query, evidence: Evidence, judge: Judge) -> bool:
    text = evidence.texts[generated_from(query)]
    return (all if query.every else any)(any(judge(text, name) for name in names) for names in query.answers)


def greedy(group: str) -> Callable[[Case, Evidence], float | None]:
    """The share of a group's probes that greedy generation answers."""
    return lambda case, evidence: by_category(case, evidence, group, mentioned)


def teacher_forced(group: str) -> Callable[[Case, Evidence], float | None]:
    """The share of right tokens, given those before, in a group's answers."""
    return lambda case, evidence: by_category(case, evidence, group, lambda *of: first_score(*of).accuracy)


def unchanged(group: str) -> Callable[[Case, Evidence], float | None]:
    """The share of arg-max tokens in a group's answers that are the unedited model's."""
    return lambda case, evidence: by_category(case, evidence, group, _same_tokens)


def _same_tokens(query: Query, evidence: Evidence) -> float | None:
    if evidence.before is None:
        return None
    before, after = (found.predicted[pair_of(query)] for found in (evidence.before, evidence))
    return mean(old == new for old, new in zip(before, after, strict=True))


def share_passed(group: str, judge: Judge) -> Callable[[Case, Evidence], float | None]:
    """The share of a group's probes that pass, a text being judged by ``judge``."""
    return lambda case, evidence: mean(passes(probe, evidence, judge) for probe in case.group(group))


def ripple_passed(group: str) -> Callable[[Case, Evidence], float | None]:
    """The share of a criterion's tests that pass, of those whose conditions the unedited model fulfils."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        unedited = evidence.before or evidence
        known = (
            probe
            for probe in case.group(group)
            if all(_answered(condition, unedited, mentions) for condition in probe.conditions)
        )
        return mean(passes(probe, evidence, mentions) for probe in known)

    return compute


def _choice(query: Query, evidence: Evidence) -> float | None:
    prompt = scored_after(query)
    right = evidence.nll(prompt, query.answers[0][0])
    return float(all(right < evidence.nll(prompt, other) for other in query.others))


def inference_choice(case: Case, evidence: Evidence) -> float | None:
    """Whether the right label is the likeliest one."""
    return by_category(case, evidence, "inference", _choice)


def span_nll(case: Case, evidence: Evidence) -> float | None:
    """The mean negative log-likelihood a token of the masked span."""
    return by_category(case, evidence, "span", lambda *of: first_score(*of).nll)


def _preference(query: Query, evidence: Evidence) -> float | None:
    prompt = scored_after(query)
    good = [evidence.nll(prompt, names[0]) for names in query.answers]
    bad = [evidence.nll(prompt, other) for other in query.others]
    return mean(first < second for first in good for second in bad)


def sentiment(case: Case, evidence: Evidence) -> float | None:
    """The share of pairs of a good and a bad reply of which the good one is likelier."""
    return by_category(case, evidence, "sentiment", _preference)
