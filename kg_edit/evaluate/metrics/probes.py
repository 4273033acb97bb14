"""The metrics of probes: each reads one group of a record's probes, and is missing for a record without them.

First come the functions that compute them, then the table `PROBE_METRICS` with formula, source and needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from kg_edit.datasets.record import Probe, Query
from kg_edit.evaluate.metrics.metric import CATEGORIES, Metric, mean
from kg_edit.scoring.likelihood import Pair, TokenScores
from kg_edit.scoring.questions import generated_from, pair_of, scored_after
from kg_edit.text.matching import begins_with, is_exactly, mentions, substring

if TYPE_CHECKING:
    from kg_edit.evaluate.case import Case
    from kg_edit.evaluate.metrics.metric import Evidence


Judge = Callable[[str, str], bool]  # text, name
OfQuery = Callable[[Query, "Evidence"], float | None]


def by_category(
    case: Case, evidence: Evidence, group: str, of_query: OfQuery, *, besides: Iterable[float] = ()
) -> float | None:
    """The mean over the categories of ``group`` of the mean over their probes; ``besides`` is one more category."""
    categories: dict[str, list[float | None]] = {"": list(besides)}
    for probe in case.group(group):
        values = categories.setdefault(probe.measures, [])
        values.append(mean(of_query(query, evidence) for query in probe.queries))
    return mean(mean(values) for values in categories.values())


def mentioned(query: Query, evidence: Evidence) -> float | None:
    """Whether the greedy continuation contains the answers as whole words: all of them or one, as the query asks."""
    return float(_answered(query, evidence, mentions))


def first_score(query: Query, evidence: Evidence) -> TokenScores:
    """The teacher-forced scores of the first answer's name."""
    return evidence.scores[pair_of(query)]


def passes(probe: Probe, evidence: Evidence, judge: Judge) -> bool:
    """Whether any, or all, of the probe's queries are answered correctly."""
    return (any if probe.passes == "any" else all)(_answered(query, evidence, judge) for query in probe.queries)


def _answered(query: Query, evidence: Evidence, judge: Judge) -> bool:
    text = evidence.texts[generated_from(query)]
    return (all if query.every else any)(any(judge(text, name) for name in names) for names in query.answers)


def greedy(group: str) -> Callable[[Case, Evidence], float | None]:
    """A metric: the share of a group's queries that greedy generation answers, mean over categories."""
    return lambda case, evidence: by_category(case, evidence, group, mentioned)


def teacher_forced(group: str) -> Callable[[Case, Evidence], float | None]:
    """A metric: the share of arg-max tokens in a group's answers, given the right tokens before them."""
    return lambda case, evidence: by_category(case, evidence, group, lambda *of: first_score(*of).accuracy)


def unchanged(group: str) -> Callable[[Case, Evidence], float | None]:
    """A metric: the share of places in a group's answers at which the arg-max token equals the unedited model's.

    None for an answer that the edited model reads as another number of tokens.
    """
    return lambda case, evidence: by_category(case, evidence, group, _same_tokens)


def _same_tokens(query: Query, evidence: Evidence) -> float | None:
    if evidence.before is None:
        return None
    before, after = (found.predicted[pair_of(query)] for found in (evidence.before, evidence))
    if len(before) != len(after):  # MeLLo's "Final answer:" puts a space where the prompt has none: 日本的首都是
        return None
    return mean(old == new for old, new in zip(before, after, strict=True))


def share_passed(group: str, judge: Judge) -> Callable[[Case, Evidence], float | None]:
    """A metric: the share of a group's probes that pass; ``judge`` decides whether a text gives an answer."""
    return lambda case, evidence: mean(passes(probe, evidence, judge) for probe in case.group(group))


def ripple_passed(group: str) -> Callable[[Case, Evidence], float | None]:
    """A metric: the share of a criterion's tests that pass, among those whose conditions the unedited model fulfils."""

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
    prompt = scored_after(query).rstrip()
    right, *others = (evidence.scores[Pair(prompt, label)].total_nll for label in (query.answers[0][0], *query.others))
    return float(all(right < other for other in others))


def inference_choice(case: Case, evidence: Evidence) -> float | None:
    """Whether the right label is the most probable one."""
    return by_category(case, evidence, "inference", _choice)


def span_nll(case: Case, evidence: Evidence) -> float | None:
    """The mean negative log-likelihood per token of the masked span."""
    return by_category(case, evidence, "span", lambda *of: first_score(*of).nll)


def specificity_nll(case: Case, evidence: Evidence) -> float | None:
    """The mean negative log-likelihood per token of the spans of sentences about other entities."""
    return by_category(case, evidence, "specificity", lambda *of: first_score(*of).nll)


def _preference(query: Query, evidence: Evidence) -> float | None:
    prompt = scored_after(query)
    good = [evidence.nll(prompt, names[0]) for names in query.answers]
    bad = [evidence.nll(prompt, other) for other in query.others]
    return mean(first < second for first in good for second in bad)


def sentiment(case: Case, evidence: Evidence) -> float | None:
    """The share of pairs of a good and a bad reply in which the good one is more probable."""
    return by_category(case, evidence, "sentiment", _preference)


_CONTAINS = "greedy continuation, up to its natural stop, contains the answer or an alias as whole words"
_ROME_ZSRE = "zsRE's metrics in ROME and MEMIT; EasyEdit's rewrite, rephrase and locality accuracy (Yao et al. 2023)"
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
_UNCHANGED = ("locality.Relation_Specificity", "locality.Forgetfulness")


def _accuracy(group: str) -> Metric:
    return Metric(
        compute=teacher_forced(group),
        formula=f"Share of the right answer's tokens that are the arg-max after the prompt and the answer's earlier "
        f"tokens, over the prompts of {group}. {CATEGORIES}",
        source=f"{_ROME_ZSRE}. Teacher forcing: easier than generation.",
        needs=(group,),
    )


def _greedy(group: str, what: str) -> Metric:
    return Metric(
        compute=greedy(group),
        formula=f"Share of {what} whose {_CONTAINS}. {CATEGORIES}",
        source="Free generation instead of teacher forcing (Yang et al. 2025).",
        needs=(group,),
    )


def _unchanged(group: str) -> Metric:
    return Metric(
        compute=unchanged(group),
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
    **{f"{part}.greedy": _greedy(part, f"prompts of {part}") for part in (*_FURTHER, *_UNCHANGED)},
    **{f"{part}.teacher_forced": _accuracy(part) for part in _FURTHER},
    **{f"{part}.unchanged": _unchanged(part) for part in _UNCHANGED},
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
        compute=inference_choice,
        formula="1 if the right label is the most probable of all labels after the beginning of the sentence: the sum "
        "of log p over the label's tokens, without the rest of the sentence.",
        source="Entity Inferences (Onoe et al. 2023), as their program ranks labels; ties count as wrong.",
        needs=("inference",),
    ),
    "span.nll": Metric(
        compute=span_nll,
        formula="-log p of the masked span after the sentence's beginning, mean over its tokens; its exp is the "
        "perplexity.",
        source="ECBD (Onoe et al. 2022, 2023).",
        needs=("span",),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "specificity.nll": Metric(
        compute=specificity_nll,
        formula="As span.nll, for masked spans in sentences about other entities (from the file of `--specificity`): "
        "it shows whether teaching a definition damages them.",
        source="Specificity on ECBD (Onoe et al. 2023), measured on its own file of popular entities.",
        needs=("specificity",),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "sentiment.prob": Metric(
        compute=sentiment,
        formula="Share of pairs of a positive and a negative reply in which the positive one has the lower NLL "
        "per token.",
        source="This project; KnowEdit and MEND judge ConvSent by a trained classifier.",
        needs=("sentiment",),
    ),
}
