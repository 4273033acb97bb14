"""The metrics of probes: each reads one group of a record's probes, and is missing for a record without them.

First come the functions that they are built from, then the table `PROBE_METRICS` with formula, source and needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from kg_edit.datasets.record import Probe, Query
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.metrics.metric import CATEGORIES, Evidence, Metric, mean
from kg_edit.scoring.likelihood import TokenScores
from kg_edit.scoring.questions import generated_from, pair_of, scored_after
from kg_edit.text.matching import begins_with, is_exactly, mentions, substring

Compute = Callable[[Case, Evidence], float | None]
Judge = Callable[[str, str], bool]  # text, name
OfQuery = Callable[[Query, Evidence], float | None]
OfRival = Callable[[Query, str, Evidence], float]
_LARGEST = 700.0  # nats; exp of more overflows a float


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
    case: Case, evidence: Evidence, group: str, of_query: OfQuery, *, more: Iterable[float] = ()
) -> float | None:
    """Return the mean over the categories of ``group`` of the mean over their probes; ``more`` is one more category."""
    categories: dict[str, list[float | None]] = {"": list(more)}
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


def first_score(query: Query, evidence: Evidence) -> TokenScores:
    """Return the teacher-forced scores of the first answer's name."""
    return evidence.scores[pair_of(query)]


def nll(query: Query, evidence: Evidence) -> float:
    """Return -log p of the answer, mean over its tokens, in nats."""
    return first_score(query, evidence).nll


def accuracy(query: Query, evidence: Evidence) -> float:
    """Return the share of arg-max tokens in the answer, given the right tokens before them."""
    return first_score(query, evidence).accuracy


def perplexity(query: Query, evidence: Evidence) -> float:
    """Return exp of `nll`."""
    return math.exp(min(nll(query, evidence), _LARGEST))


def rival_nll(query: Query, other: str, evidence: Evidence) -> float:
    """Return -log p of a competing answer, mean over its tokens, in nats."""
    return evidence.nll(scored_after(query), other)


def prefers_answer(query: Query, other: str, evidence: Evidence) -> float:
    """Return whether the answer is more probable per token than a competing one."""
    return float(nll(query, evidence) < rival_nll(query, other, evidence))


def unchanged(query: Query, evidence: Evidence) -> float | None:
    """Return the share of the answer's places at which the arg-max token equals the unedited model's.

    None for the unedited model, and for an answer that the edited model reads as another number of tokens.
    """
    if evidence.before is None:
        return None
    before, after = (found.predicted[pair_of(query)] for found in (evidence.before, evidence))
    if len(before) != len(after):  # MeLLo's "Final answer:" puts a space where the prompt has none: 日本的首都是
        return None
    return mean(old == new for old, new in zip(before, after, strict=True))


def ripple_passed(group: str) -> Compute:
    """Return a metric: the share of a criterion's tests that pass, if the unedited model fulfils their conditions."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        unedited = evidence.before or evidence
        known = (
            probe
            for probe in case.group(group)
            if all(answered(condition, unedited, mentions) for condition in probe.conditions)
        )
        return mean(passes(probe, evidence, mentions) for probe in known)

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


_CONTAINS = "greedy continuation, up to its natural stop, contains the answer or an alias as whole words"
_ROME_ZSRE = "zsRE's metrics in ROME and MEMIT; EasyEdit's rewrite, rephrase and locality accuracy (Yao et al. 2023)"
_GRACE = "GRACE (Hartvigsen et al. 2023), its table on hallucination"
_CRITERIA = {
    "RS": "relation specificity (other facts about the subject must not change)",
    "LG": "logical generalisation (facts that the relation's logic changes too)",
    "SA": "subject aliasing (the fact under other names of the subject)",
    "CI": "compositionality I (two hops, the edit is the first)",
    "CII": "compositionality II (two hops, the edit is the second)",
    "FN": "forgetfulness (other objects of a relation that may have several must not change)",
}
_FURTHER = tuple(
    f"portability.{part}"
    for part in ("Reasoning", "Subject_Aliasing", "Logical_Generalization", "Inverse_Relation", "Subject_Replace")
)
_MUST_NOT_CHANGE = ("locality.Relation_Specificity", "locality.Forgetfulness")


def _accuracy(group: str) -> Metric:
    return Metric(
        compute=over_categories(group, accuracy),
        formula=f"Share of the right answer's tokens that are the arg-max after the prompt and the answer's earlier "
        f"tokens, over the prompts of {group}. {CATEGORIES}",
        source=f"{_ROME_ZSRE}. Teacher forcing: easier than generation.",
        needs=(group,),
    )


def _greedy(group: str, what: str) -> Metric:
    return Metric(
        compute=over_categories(group, mentioned),
        formula=f"Share of {what} whose {_CONTAINS}. {CATEGORIES}",
        source="Free generation instead of teacher forcing (Yang et al. 2025).",
        needs=(group,),
    )


def _unchanged(group: str) -> Metric:
    return Metric(
        compute=over_categories(group, unchanged),
        formula=f"Over the prompts of {group}: the share of the true answer's places at which the edited model's "
        "arg-max token is the unedited model's; the answer itself need not be right. Missing for the unedited model. "
        f"{CATEGORIES}",
        source="EasyEdit's locality (Yao et al. 2023).",
        needs=(group,),
    )


PROBE_METRICS: Mapping[str, Metric] = {
    "efficacy.teacher_forced": _accuracy("efficacy"),
    "paraphrase.teacher_forced": _accuracy("paraphrase"),
    "paraphrase.greedy": _greedy("paraphrase", "paraphrases"),
    "locality.greedy": _greedy("locality", "unrelated prompts"),
    "locality.teacher_forced": _accuracy("locality"),
    "locality.unchanged": _unchanged("locality"),
    **{f"{part}.greedy": _greedy(part, f"prompts of {part}") for part in (*_FURTHER, *_MUST_NOT_CHANGE)},
    **{f"{part}.teacher_forced": _accuracy(part) for part in _FURTHER},
    **{f"{part}.unchanged": _unchanged(part) for part in _MUST_NOT_CHANGE},
    "multihop.any_of_3": Metric(
        compute=share_passed("multihop", is_exactly),
        formula="1 if at least one of the three wordings of the question is answered with the new answer or an alias: "
        "the greedy continuation in few-shot form equals it after normalisation.",
        source="MQuAKE's multi-hop accuracy (Zhong et al. 2023), with this project's four shots instead of 16.",
        needs=("multihop",),
    ),
    "multihop.edit_wise": Metric(
        compute=share_passed("edit", begins_with),
        formula="Share of the edits whose statement, continued greedily, begins with the new object or an alias.",
        source="MQuAKE's edit-wise success rate (Zhong et al. 2023).",
        needs=("edit",),
    ),
    "multihop.instance_wise": Metric(
        compute=share_passed("hops", is_exactly),
        formula="1 if every fact of the new chain is answered correctly, one question each, as in multihop.any_of_3.",
        source="MQuAKE's instance-wise accuracy (Zhong et al. 2023).",
        needs=("hops",),
    ),
    **{
        f"ripple.{code}": Metric(
            compute=ripple_passed(f"ripple.{code}"),
            formula=f"Share of tests of {about} that pass: any (OR) or all (AND) of the queries have a greedy "
            "continuation that contains each answer, by one of its names, as whole words. A test whose condition "
            "queries the unedited model fails is not counted.",
            source="RippleEdits (Cohen et al. 2024), which looks for names as substrings, and whose table is over "
            "records whose edit succeeded.",
            needs=(f"ripple.{code}",),
        )
        for code, about in _CRITERIA.items()
    },
    "recall.greedy": _greedy("recall", "questions"),
    "recall.substring": Metric(
        compute=share_passed("recall", substring),
        formula="Share of questions whose greedy continuation contains an answer as a substring, ignoring case.",
        source="PopQA's accuracy (Mallen et al. 2023): Rome is found in Romelu.",
        needs=("recall",),
    ),
    "inference.choice": Metric(
        compute=over_categories("inference", most_probable),
        formula="1 if the right label is the most probable of all labels after the beginning of the sentence: the sum "
        "of log p over the label's tokens, without the rest of the sentence.",
        source="Entity Inferences (Onoe et al. 2023), as their program ranks labels; ties count as wrong.",
        needs=("inference",),
    ),
    "span.nll": Metric(
        compute=over_categories("span", nll),
        formula="-log p of the masked span after the sentence's beginning, mean over its tokens; its exp is the "
        "perplexity.",
        source="ECBD (Onoe et al. 2022, 2023).",
        needs=("span",),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "specificity.nll": Metric(
        compute=over_categories("specificity", nll),
        formula="As span.nll, for masked spans in sentences about other entities (from the file of `--specificity`): "
        "it shows whether teaching a definition damages them.",
        source="Specificity on ECBD (Onoe et al. 2023), measured on its own file of popular entities.",
        needs=("specificity",),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "sentiment.prob": Metric(
        compute=over_categories("sentiment", prefers_positive),
        formula="Share of pairs of a positive and a negative reply in which the positive one has the lower NLL "
        "per token.",
        source="This project; KnowEdit and MEND judge ConvSent by a trained classifier.",
        needs=("sentiment",),
    ),
    "hallucination.true.perplexity": Metric(
        compute=over_queries("hallucination", perplexity),
        formula="exp of the mean over its tokens of -log p(true sentence | the passage before it).",
        source=f"{_GRACE}: ERR, of the sentences that are edited in.",
        needs=("hallucination",),
        values="1 to ∞",
        better="lower",
    ),
    "hallucination.own.perplexity": Metric(
        compute=over_rivals("hallucination", lambda *of: math.exp(min(rival_nll(*of), _LARGEST))),
        formula="As hallucination.true.perplexity, for the hallucinated sentence, which an edit should make unlikely.",
        source="This project, after SelfCheckGPT's sentences (Manakul et al. 2023).",
        needs=("hallucination",),
        values="1 to ∞",
        better="higher",
    ),
    "hallucination.prob": Metric(
        compute=over_rivals("hallucination", prefers_answer),
        formula="1 if NLL(true sentence) < NLL(hallucinated sentence), both means over their tokens.",
        source="This project, as efficacy.prob.",
        needs=("hallucination",),
    ),
    "accurate.perplexity": Metric(
        compute=over_queries("accurate", perplexity),
        formula="Mean over the record's accurate sentences of their perplexity, which is exp of the mean over "
        "tokens of -log p(sentence | the passage before it). A run's value is the mean over records.",
        source=f"{_GRACE}: ARR, of the sentences that were accurate before; that is a mean over all sentences.",
        needs=("accurate",),
        values="1 to ∞",
        better="lower",
    ),
}
