"""The metrics of probes: each reads one group of a record's probes, and is missing for a record without them.

First come the functions that only MQuAKE's multi-hop questions need, then the table `PROBE_METRICS` with formula,
source and needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kg_edit.edits.record import Query
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets.halluedit import HOPS
from kg_edit.evaluation.metrics.conversations import CONVERSATION_METRICS
from kg_edit.evaluation.metrics.metric import (
    CATEGORIES,
    Compute,
    Metric,
    accuracy,
    answered,
    continue_conditions,
    mentioned,
    most_probable,
    nll,
    over_categories,
    over_queries,
    over_rivals,
    perplexity,
    prefers_answer,
    prefers_positive,
    ripple_passed,
    rival_nll,
    rival_perplexity,
    same_text,
    share_passed,
    unchanged,
)
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.questions import generation_prompt
from kg_edit.scoring.requests import (
    begin_query,
    continue_at_length,
    continue_query,
    predict_answer,
    score_answer,
    score_answers,
)
from kg_edit.text.matching import begins_with, is_exactly, mentions, substring


def old_answer(case: Case, evidence: Evidence) -> float | None:
    """Return whether the model answers any wording with the answer before the edits, or with an alias of it."""
    matches = list[bool]()
    for query in case.queries("multihop"):
        text = evidence.texts[generation_prompt(query)]
        matches += [is_exactly(text, name) for name in query.old]
    if not matches:
        return None
    return float(any(matches))


def hop_wise(case: Case, evidence: Evidence) -> float | None:
    """Return whether the question and every fact of the new chain are answered correctly."""
    question = PROBE_METRICS["multihop.any_of_3"](case, evidence)
    hops = PROBE_METRICS["multihop.instance_wise"](case, evidence)
    if question is None or hops is None:
        return None
    return float(question == hops == 1)


def hop_answered(query: Query, evidence: Evidence) -> bool:
    """Return whether one fact of the new chain is answered correctly."""
    return answered(query, evidence, is_exactly)


def of_hops(hops: int, compute: Compute) -> Compute:
    """Restrict a metric to the records whose new chain has ``hops`` facts; None for other records."""

    def compute_for_hops(case: Case, evidence: Evidence) -> float | None:
        if len(case.queries("hops")) != hops:
            return None
        return compute(case, evidence)

    return compute_for_hops


_CONTAINS = "greedy continuation, up to its natural stop, contains the answer or an alias as whole words"
_OURS = "This project. It also shows changes that are too small to change a share of right answers."
_GRACE = "GRACE (Hartvigsen et al. 2023), its table on hallucination"
_CRITERIA = {
    "RS": "relation specificity (other facts about the subject must not change)",
    "LG": "logical generalisation (facts that the relation's logic changes too)",
    "SA": "subject aliasing (the fact under other names of the subject)",
    "CI": "compositionality I (two hops, the edit is the first)",
    "CII": "compositionality II (two hops, the edit is the second)",
    "FN": "forgetfulness (other objects of a relation that may have several must not change)",
}
_CATEGORIES = (  # of KnowEdit, zsRE and HalluEditBench; a user's own rows may have others
    *("portability.Reasoning", "portability.Subject_Aliasing", "portability.Logical_Generalization"),
    *("portability.Inverse_Relation", "portability.Subject_Replace"),
    *(f"portability.{hops}_hops" for hops in HOPS),
    *("locality.Relation_Specificity", "locality.Forgetfulness"),
)


def _accuracy(group: str) -> Metric:
    return Metric(
        compute=over_categories(group, accuracy),
        formula=f"Share of the right answer's tokens that are the arg-max after the prompt and the answer's earlier "
        f"tokens, over the prompts of {group}. {CATEGORIES}",
        source="zsRE's metrics in ROME and MEMIT; EasyEdit's rewrite, rephrase and locality accuracy (Yao et al. "
        "2023).",
        needs=(group,),
        asks=(score_answer,),
    )


def _greedy(group: str, what: str) -> Metric:
    return Metric(
        compute=over_categories(group, mentioned),
        formula=f"Share of {what} whose {_CONTAINS}. {CATEGORIES}",
        source="Free generation instead of teacher forcing (Yang et al. 2025).",
        needs=(group,),
        asks=(continue_query,),
    )


def _nll(group: str) -> Metric:
    return Metric(
        compute=over_categories(group, nll),
        formula=f"-log p(right answer | prompt), mean over the answer's tokens, then over the prompts of {group}.",
        source=_OURS,
        needs=(group,),
        asks=(score_answer,),
        values="0 to ∞ nats a token",
        better="lower",
    )


def _unchanged(group: str) -> Metric:
    return Metric(
        compute=over_categories(group, unchanged),
        formula="Share of the true answer's positions at which the edited model's arg-max token is the unedited "
        f"model's, over the prompts of {group}; the answer itself need not be right. {CATEGORIES}",
        source="EasyEdit's locality (Yao et al. 2023).",
        needs=(group,),
        asks=(predict_answer,),
    )


def category_metrics(group: str) -> dict[str, Metric]:
    """Return the metrics of a sub-category of portability or locality, such as portability.Reasoning; else none."""
    if not group.startswith(("portability.", "locality.")):
        return {}
    metrics = {f"{group}.greedy": _greedy(group, f"prompts of {group}")}
    if group.startswith("portability."):
        metrics[f"{group}.teacher_forced"] = _accuracy(group)
    else:
        metrics[f"{group}.unchanged"] = _unchanged(group)
    return metrics


def _list_category_metrics() -> dict[str, Metric]:
    """Return the metrics of the sub-categories that published data sets have."""
    metrics = dict[str, Metric]()
    for group in _CATEGORIES:
        metrics |= category_metrics(group)
    return metrics


_WHOLE: Mapping[str, Metric] = {
    "efficacy.teacher_forced": _accuracy("efficacy"),
    "paraphrase.teacher_forced": _accuracy("paraphrase"),
    "efficacy.nll": _nll("efficacy"),
    "paraphrase.nll": _nll("paraphrase"),
    "paraphrase.greedy": _greedy("paraphrase", "prompts of paraphrase"),
    "locality.greedy": _greedy("locality", "prompts of locality"),
    "locality.teacher_forced": _accuracy("locality"),
    "locality.unchanged": _unchanged("locality"),
    "locality.same_text": Metric(
        compute=over_queries("locality-text", same_text),
        formula="Of the locality prompts without an answer: the share after which the first five tokens of the greedy "
        "text (in chat form its first sentence) are the unedited model's.",
        source="This project. `kg-edit edit` and `kg-edit diff` give the verdict *unchanged* by this metric.",
        needs=("locality-text",),
        asks=(begin_query,),
    ),
    **_list_category_metrics(),
    "multihop.any_of_3": Metric(
        compute=share_passed("multihop", is_exactly),
        formula="1 if at least one of the three wordings of the question is answered with the new answer or an alias: "
        "the greedy continuation in few-shot form equals it after normalisation.",
        source="MQuAKE's multi-hop accuracy (Zhong et al. 2023), with this project's four examples instead of 16.",
        needs=("multihop",),
        asks=(continue_query,),
    ),
    "multihop.edit_wise": Metric(
        compute=share_passed("edit", begins_with),
        formula="Share of the edits whose statement, continued greedily, begins with the new object or an alias.",
        source="MQuAKE's edit-wise success rate (Zhong et al. 2023).",
        needs=("edit",),
        asks=(continue_query,),
    ),
    "multihop.instance_wise": Metric(
        compute=share_passed("hops", is_exactly),
        formula="1 if every fact of the new chain is answered correctly, one question each, as in multihop.any_of_3.",
        source="MQuAKE's instance-wise accuracy (Zhong et al. 2023).",
        needs=("hops",),
        asks=(continue_query,),
    ),
    **{
        f"ripple.{code}": Metric(
            compute=ripple_passed(f"ripple.{code}"),
            formula=f"Share of tests of {about} that pass: any (OR) or all (AND) of the queries have a greedy "
            "continuation that contains each answer, by one of its names, as whole words. A test whose condition "
            "queries the unedited model fails is not counted.",
            source="RippleEdits (Cohen et al. 2024), which also finds substrings, even in the prompt, and whose "
            "table has only successful edits.",
            needs=(f"ripple.{code}",),
            asks=(continue_query,),
            asks_case=continue_conditions,
        )
        for code, about in _CRITERIA.items()
    },
    "recall.greedy": _greedy("recall", "prompts of recall"),
    "recall.substring": Metric(
        compute=share_passed("recall", substring),
        formula="Share of questions whose greedy continuation contains an answer as a substring, ignoring case.",
        source="PopQA's accuracy (Mallen et al. 2023), which finds Rome in Romelu.",
        needs=("recall",),
        asks=(continue_query,),
    ),
    "inference.choice": Metric(
        compute=over_categories("inference", most_probable),
        formula="1 if the right label is the most probable of all labels after the beginning of the sentence: the sum "
        "of log p over the label's tokens, without the rest of the sentence.",
        source="Entity Inferences (Onoe et al. 2023), as their program ranks labels. Ties count as wrong.",
        needs=("inference",),
        asks=(score_answers,),
    ),
    "inference-specificity.choice": Metric(
        compute=over_categories("inference-specificity", most_probable),
        formula="As inference.choice, for sentences about other entities (from the file of `--specificity`).",
        source="Specificity on Entity Inferences (Onoe et al. 2023), which asks about all other entities.",
        needs=("inference-specificity",),
        asks=(score_answers,),
    ),
    "multiple-choice.choice": Metric(
        compute=over_categories("multiple-choice", most_probable),
        formula="1 if the letter of the right choice is the most probable of the letters, after the question and the "
        "lettered choices.",
        source="HalluEditBench (Huang et al. 2025), whose program compares the letter that the model writes. Ties are "
        "wrong.",
        needs=("multiple-choice",),
        asks=(score_answers,),
    ),
    "span.nll": Metric(
        compute=over_categories("span", nll),
        formula="-log p of the masked span after the sentence's beginning, mean over its tokens.",
        source="ECBD (Onoe et al. 2022, 2023).",
        needs=("span",),
        asks=(score_answer,),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "specificity.nll": Metric(
        compute=over_categories("specificity", nll),
        formula="As span.nll, for spans about other entities (from the file of `--specificity`).",
        source="Specificity on ECBD (Onoe et al. 2023).",
        needs=("specificity",),
        asks=(score_answer,),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "sentiment.prob": Metric(
        compute=over_categories("sentiment", prefers_positive),
        formula="Share of pairs of a positive and a negative reply in which the positive one has the lower NLL "
        "per token.",
        source="This project. KnowEdit and MEND judge ConvSent by a trained classifier.",
        needs=("sentiment",),
        asks=(score_answers,),
    ),
    "hallucination.true.perplexity": Metric(
        compute=over_queries("hallucination", perplexity),
        formula="exp of the mean over its tokens of -log p(true sentence | the passage before it).",
        source=f"{_GRACE}, where it is called ERR.",
        needs=("hallucination",),
        asks=(score_answer,),
        values="1 to ∞",
        better="lower",
    ),
    "hallucination.own.perplexity": Metric(
        compute=over_rivals("hallucination", rival_perplexity),
        formula="As hallucination.true.perplexity, for the hallucinated sentence, which an edit should make unlikely.",
        source="This project, with SelfCheckGPT's sentences (Manakul et al. 2023).",
        needs=("hallucination",),
        asks=(score_answers,),
        values="1 to ∞",
        better="higher",
    ),
    "hallucination.prob": Metric(
        compute=over_rivals("hallucination", prefers_answer),
        formula="1 if NLL(true sentence) < NLL(hallucinated sentence), both means over their tokens.",
        source="This project, as efficacy.prob.",
        needs=("hallucination",),
        asks=(score_answers,),
    ),
    "accurate.perplexity": Metric(
        compute=over_queries("accurate", perplexity),
        formula="As hallucination.true.perplexity, mean over the record's accurate sentences.",
        source=f"{_GRACE}, where ARR is a mean over all sentences of a run.",
        needs=("accurate",),
        asks=(score_answer,),
        values="1 to ∞",
        better="lower",
    ),
    "multihop.prob": Metric(
        compute=over_rivals("multihop", prefers_answer),
        formula='Share of the wordings of the question with NLL(new answer) < NLL(old answer) after "Question: …\\n'
        'Answer:".',
        source="GLAME's program (Zhang et al. 2024), which uses another form of the question.",
        needs=("multihop",),
        asks=(score_answers,),
    ),
    "multihop.nll": Metric(
        compute=over_queries("multihop", nll),
        formula='-log p(new answer | "Question: …\\nAnswer:"), mean over its tokens, then over the wordings.',
        source=_OURS,
        needs=("multihop",),
        asks=(score_answer,),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "multihop.old.nll": Metric(
        compute=over_rivals("multihop", rival_nll),
        formula="As multihop.nll, for the old answer, which an edit should make unlikely.",
        source=_OURS,
        needs=("multihop",),
        asks=(score_answers,),
        values="0 to ∞ nats a token",
        better="higher",
    ),
    "multihop.old.any_of_3": Metric(
        compute=old_answer,
        formula="As multihop.any_of_3, for the old answer. A name that is also a name of the new answer counts as new.",
        source="This project.",
        needs=("multihop",),
        asks=(continue_query,),
        better="lower",
    ),
    "multihop.hop_share": Metric(
        compute=over_queries("hops", hop_answered),
        formula="Share of the facts of the new chain that are answered correctly, one question each.",
        source="This project.",
        needs=("hops",),
        asks=(continue_query,),
    ),
    "multihop.hop_wise": Metric(
        compute=hop_wise,
        formula="1 if multihop.any_of_3 and multihop.instance_wise are both 1.",
        source="Hop-wise accuracy of PokeMQA (Gu et al. 2024), which scores the steps that a model writes out.",
        needs=("multihop", "hops"),
        asks=(continue_query,),
    ),
}

_SAND = "Negation and fact-check probes of arXiv 2510.00625, which has a wording for each relation"
TEMPLATE_METRICS: Mapping[str, Metric] = {
    "negation.prob": Metric(
        compute=over_rivals("negation", prefers_answer),
        formula='1 if NLL(o) < NLL(o*) after "It is not true that" and the edit\'s prompt.',
        source=f"{_SAND}. After an edit that only ties o* to the words of the prompt, the model prefers o* here too.",
        needs=("negation",),
        asks=(score_answers,),
    ),
    "fact-check.prob": Metric(
        compute=over_rivals("fact-check", prefers_answer),
        formula='Share of right answers, Yes or No, the one with the lower NLL, to "Is it true that …?" about the new '
        "fact (Yes) and about the old one (No), or to a data set's own questions (HalluEditBench). A model that always "
        "gives the same answer scores 0.5 on such pairs.",
        source=f"{_SAND}.",
        needs=("fact-check",),
        asks=(score_answers,),
    ),
    "distracting.prob": Metric(
        compute=over_rivals("distracting", prefers_answer),
        formula="As neighborhood.prob, with the new fact as a sentence before each neighbour's prompt.",
        source="CounterFact+ (Hoelscher-Obermaier et al. 2023).",
        needs=("distracting",),
        asks=(score_answers,),
    ),
    "reversed.greedy": _greedy(
        "reversed",
        'questions for the subject of the new fact, "Which name is missing in …?" or a data set\'s own,',
    ),
    "reversed.nll": Metric(
        compute=over_queries("reversed", nll),
        formula="-log p of the subject after that question, mean over its tokens.",
        source="This project. The reversed relation is asked as in BAKE (Ma et al. 2023).",
        needs=("reversed",),
        asks=(score_answer,),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "elsewhere.greedy": Metric(
        compute=share_passed("elsewhere", begins_with),
        formula="Share of neighbours' prompts whose greedy continuation begins with o*, which is not their answer.",
        source="This project, after EVOKE (Zhang et al. 2025). It finds the new object where it should not be.",
        needs=("elsewhere",),
        asks=(continue_query,),
        better="lower",
    ),
    "refutation.greedy": Metric(
        compute=share_passed("refutation", mentions),
        formula="1 if the greedy text after the edit's prompt, at most 60 tokens of one line, contains the old object "
        "as whole words.",
        source="Self-refutation (arXiv 2605.28303), where a model judges the text.",
        needs=("refutation",),
        asks=(continue_at_length,),
        better="lower",
    ),
    **CONVERSATION_METRICS,
}
"""The metrics of the probes that `kg_edit.evaluation.template_probes` makes on request."""
# Of these there are three more metrics each, over the records whose new chain has 2, 3 or 4 facts.
_SPLIT = ("any_of_3", "prob", "nll", "old.any_of_3", "hop_share", "instance_wise", "hop_wise")


def _split_by_hops() -> dict[str, Metric]:
    """Return the multi-hop metrics of `_SPLIT` over the records whose new chain has so many facts."""
    metrics = dict[str, Metric]()
    for hops in (2, 3, 4):
        for name in _SPLIT:
            whole = _WHOLE[f"multihop.{name}"]
            metrics[f"multihop.{hops}_hops.{name}"] = replace(
                whole,
                compute=of_hops(hops, whole.compute),
                formula=f"multihop.{name} of the records whose new chain has {hops} facts.",
                source="MQuAKE (Zhong et al. 2023), whose tables separate 2, 3 and 4 hops.",
                needs=("multihop", "hops"),
                asks=(),  # the metric over all records asks the same questions
            )
    return metrics


PROBE_METRICS: Mapping[str, Metric] = {**_WHOLE, **_split_by_hops()}
