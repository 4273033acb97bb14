"""The metrics of unstructured edits: how near a generated paragraph is to its target, in words and in meaning.

ROUGE and BLEU are those of UnKE's program; its semantic score is of a sentence encoder, here of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kg_edit.edits.record import Query
from kg_edit.evaluation.metrics.metric import Metric, mentioned, nll, over_queries
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.questions import generated_from
from kg_edit.scoring.requests import continue_paragraph, continue_query, score_answer
from kg_edit.text.overlap import bleu, rouge_l, rouge_n

PARAPHRASE = "unstructured-paraphrase"
PARTS = "sub-question"
TRIPLE = "triple"
COSINE = "hidden_cosine.greedy"
_GROUPS = ("unstructured", PARAPHRASE, PARTS)  # after the edit's prompt, its paraphrases, questions about parts
_UNKE = "UnKE (Deng et al. 2025)"
_ROUGE = "ROUGE-1, -2 or -L as a recall: the share of the target's different words, pairs of words, or words of the "
_ROUGE += "longest common sequences of sentences, that are in"
_OVERLAPS: Mapping[str, tuple[Callable[[str, str], float], str]] = {
    "rouge_1.greedy": (lambda text, target: rouge_n(text, target, 1), _ROUGE),
    "rouge_2.greedy": (lambda text, target: rouge_n(text, target, 2), _ROUGE),
    "rouge_l.greedy": (rouge_l, _ROUGE),
    "bleu.greedy": (bleu, "BLEU of one to four characters against the target, not smoothed, of"),
}


def _overlap(of: Callable[[str, str], float]) -> Callable[[Query, Evidence], float]:
    return lambda query, evidence: of(evidence.texts[generated_from(query)], query.answers[0][0])


def hidden_cosine(query: Query, evidence: Evidence) -> float | None:
    """Return the cosine of the mean hidden states of the generated text and the target; None without the vectors."""
    return evidence.cosines.get((evidence.texts[generated_from(query)], query.answers[0][0]))


def _greedy(group: str, what: str) -> Metric:
    return Metric(
        compute=over_queries(group, mentioned),
        formula=f"Share of {what} whose greedy continuation contains the answer as whole words.",
        source="This project; hard for an answer that is a sentence.",
        needs=(group,),
        asks=(continue_query,),
    )


def _nll(group: str, after: str) -> Metric:
    return Metric(
        compute=over_queries(group, nll),
        formula=f"-log p of the answer after {after}, mean over its tokens.",
        source="This project.",
        needs=(group,),
        asks=(score_answer,),
        values="0 to ∞ nats a token",
        better="lower",
    )


UNSTRUCTURED_METRICS: Mapping[str, Metric] = {
    **{
        f"{group}.{name}": Metric(
            compute=over_queries(group, _overlap(of)),
            formula=f"{what} the greedy continuation.",
            source=f"{_UNKE}.",
            needs=(group,),
            asks=(continue_query if group == PARTS else continue_paragraph,),
        )
        for group in _GROUPS
        for name, (of, what) in _OVERLAPS.items()
        if group != PARTS or name == "rouge_l.greedy"
    },
    **{
        f"{group}.{COSINE}": Metric(
            compute=over_queries(group, hidden_cosine),
            formula="Cosine of two mean hidden states, of the greedy continuation and of the target: those that the "
            "unedited model's head reads, over all tokens but the first. It has a narrow range: compare it between "
            "runs only.",
            source=f"{_UNKE}, there by the sentence encoder all-MiniLM-L6-v2.",
            needs=(group,),
            asks=(continue_paragraph,),
            values="-1 to 1",
            in_meaning=True,
        )
        for group in ("unstructured", PARAPHRASE)
    },
    f"{PARTS}.greedy": _greedy(PARTS, "questions about parts of the text, in few-shot form,"),
    f"{PARTS}.nll": _nll(PARTS, "each of these questions"),
    f"{TRIPLE}.greedy": _greedy(TRIPLE, "statements of the text's facts"),
    f"{TRIPLE}.nll": _nll(TRIPLE, "each of these statements"),
}
