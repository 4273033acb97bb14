"""The metrics of probes: each looks at one group of the probes that a record brings, and is missing without them."""

from __future__ import annotations

from collections.abc import Mapping

from kg_edit.evaluate.metrics.metric import CATEGORIES, Metric
from kg_edit.evaluate.probe_scores import (
    greedy,
    inference_choice,
    ripple_passed,
    sentiment,
    share_passed,
    span_nll,
    teacher_forced,
    unchanged,
)
from kg_edit.text.matching import begins_with, is_exactly, substring

_SAYS = "greedy continuation, up to its natural stop, says the answer or an alias as whole words"
_ROME_ZSRE = "zsRE's metrics in ROME and MEMIT; EasyEdit's rewrite, rephrase and locality accuracy (Yao et al. 2023)"
_CRITERIA = {
    "RS": "relation specificity (other facts about the subject stay)",
    "LG": "logical generalisation (facts that the relation's logic changes too)",
    "SA": "subject aliasing (the fact under other names of the subject)",
    "CI": "compositionality I (two hops, the edit is the first)",
    "CII": "compositionality II (two hops, the edit is the second)",
    "FN": "forgetfulness (other objects of a relation that may have several stay)",
}
_FURTHER = tuple(
    f"portability.{part}"
    for part in ("Reasoning", "Subject_Aliasing", "Logical_Generalization", "Inverse_Relation", "Subject_Replace")
)
_KEPT = ("locality.Relation_Specificity", "locality.Forgetfulness")


def _accuracy(group: str) -> Metric:
    return Metric(
        compute=teacher_forced(group),
        formula=f"Share of the right answer's tokens that are the arg-max after the prompt and those before, over the "
        f"prompts of {group}. {CATEGORIES}",
        source=f"{_ROME_ZSRE}. Teacher forcing: kinder than generation.",
        of=group,
    )


def _says(group: str, what: str) -> Metric:
    return Metric(
        compute=greedy(group),
        formula=f"Share of {what} whose {_SAYS}. {CATEGORIES}",
        source="Free generation in the place of teacher forcing (Yang et al. 2025).",
        of=group,
    )


def _kept(group: str) -> Metric:
    return Metric(
        compute=unchanged(group),
        formula=f"Over the prompts of {group}: the share of the true answer's places at which the edited model's "
        "arg-max token is the unedited model's; the answer itself need not be right. Missing for the unedited model. "
        f"{CATEGORIES}",
        source="EasyEdit's locality (Yao et al. 2023).",
        of=group,
    )


PROBE_METRICS: Mapping[str, Metric] = {
    "efficacy.teacher_forced": _accuracy("efficacy"),
    "paraphrase.teacher_forced": _accuracy("paraphrase"),
    "paraphrase.greedy": _says("paraphrase", "paraphrases"),
    "locality.greedy": _says("locality", "unrelated prompts"),
    "locality.teacher_forced": _accuracy("locality"),
    "locality.unchanged": _kept("locality"),
    **{f"{part}.greedy": _says(part, f"prompts of {part}") for part in (*_FURTHER, *_KEPT)},
    **{f"{part}.teacher_forced": _accuracy(part) for part in _FURTHER},
    **{f"{part}.unchanged": _kept(part) for part in _KEPT},
    "multihop.any_of_3": Metric(
        compute=share_passed("multihop", is_exactly),
        formula="1 if at least one of the three wordings of the question is answered with the new answer or an alias: "
        "the greedy continuation in few-shot form equals it after normalisation.",
        source="MQuAKE's multi-hop accuracy (Zhong et al. 2023), with this project's four shots in the place of 16.",
        of="multihop",
    ),
    "multihop.edit_wise": Metric(
        compute=share_passed("edit", begins_with),
        formula="Share of the edits whose statement, continued greedily, begins with the new object or an alias.",
        source="MQuAKE's edit-wise success rate (Zhong et al. 2023).",
        of="edit",
    ),
    "multihop.instance_wise": Metric(
        compute=share_passed("hops", is_exactly),
        formula="1 if every fact of the new chain is answered rightly, one question each, as in multihop.any_of_3.",
        source="MQuAKE's instance-wise accuracy (Zhong et al. 2023).",
        of="hops",
    ),
    **{
        f"ripple.{code}": Metric(
            compute=ripple_passed(f"ripple.{code}"),
            formula=f"Share of tests of {about} that pass: any (OR) or all (AND) of the queries have a greedy "
            "continuation that says each answer, by one of its names, as whole words. A test whose condition queries "
            "the unedited model fails is not counted.",
            source="RippleEdits (Cohen et al. 2024), which looks for names as substrings, and whose table is over "
            "records whose edit succeeded.",
            of=f"ripple.{code}",
        )
        for code, about in _CRITERIA.items()
    },
    "recall.greedy": _says("recall", "questions"),
    "recall.substring": Metric(
        compute=share_passed("recall", substring),
        formula="Share of questions whose greedy continuation holds an answer as a substring, in any case.",
        source="PopQA's accuracy (Mallen et al. 2023): Rome is found in Romelu.",
        of="recall",
    ),
    "inference.choice": Metric(
        compute=inference_choice,
        formula="1 if of all labels of the sentence the right one, with the sentence's rest after it, has the lowest "
        "NLL a token.",
        source="Entity Inferences (Onoe et al. 2023); ties count as wrong.",
        of="inference",
    ),
    "span.nll": Metric(
        compute=span_nll,
        formula="-log p of the masked span after the sentence's beginning, mean over its tokens; exp of it is the "
        "perplexity.",
        source="ECBD (Onoe et al. 2022, 2023).",
        of="span",
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "sentiment.prob": Metric(
        compute=sentiment,
        formula="Share of pairs of a positive and a negative reply of which the positive one has the lower NLL "
        "a token.",
        source="This project; KnowEdit and MEND judge ConvSent by a trained classifier.",
        of="sentiment",
    ),
}
