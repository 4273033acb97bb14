"""The metrics of unstructured edits: how near a generated paragraph is to its target, in words and in meaning.

ROUGE and BLEU are those of UnKE's program; its semantic score is of a sentence encoder, here of the model itself. Its
program takes the recall of the package rouge 1.0.1, where words are divided by spaces and sentences by full stops, and
a word or n-gram counts once; and BLEU of characters (nltk's `sentence_bleu` of two strings).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

from kg_edit.edits.record import Query
from kg_edit.evaluation.metrics.metric import Metric, ScoreQuery, mentioned, nll, over_queries
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.questions import generation_prompt
from kg_edit.scoring.requests import Requests, continue_query, score_answer

PARAPHRASE = "unstructured-paraphrase"
PARTS = "sub-question"
TRIPLE = "triple"
COSINE = "hidden_cosine.greedy"
_LONGEST = 4  # characters of BLEU's n-grams


def rouge_n(text: str, reference: str, size: int) -> float:
    """Return ROUGE-N (Lin 2004): the share of the reference's different n-grams of ``size`` words that the text has."""
    wanted = _ngrams(reference, size)
    if not wanted:
        return 0.0
    return len(wanted & _ngrams(text, size)) / len(wanted)


def rouge_1(text: str, reference: str) -> float:
    """Return ROUGE-1: `rouge_n` of single words."""
    return rouge_n(text, reference, 1)


def rouge_2(text: str, reference: str) -> float:
    """Return ROUGE-2: `rouge_n` of pairs of words."""
    return rouge_n(text, reference, 2)


def rouge_l(text: str, reference: str) -> float:
    """Return ROUGE-L (Lin 2004): the share of the reference's different words that a common sequence has.

    The sequence is the longest one that a sentence of the text and one of the reference have in this order; words of
    all pairs of sentences count.
    """
    words = set[str]()
    common = set[str]()
    for sentence in _sentences(reference):
        words.update(sentence)
        for other in _sentences(text):
            common.update(_common_sequence(sentence, other))
    if not words:
        return 0.0
    return len(common) / len(words)


def bleu(text: str, reference: str) -> float:
    """Return BLEU (Papineni et al. 2002) of one text: n-grams of one to four characters, not smoothed.

    BLEU = min(1, exp(1 - |reference| / |text|)) * exp(mean over n of log p_n),   p_n: share of n-grams in the reference
    """
    logs = []
    for size in range(1, _LONGEST + 1):
        counts = _characters(text, size)
        common = (counts & _characters(reference, size)).total()
        if not common:
            return 0.0
        logs.append(math.log(common / counts.total()))
    brevity = min(1.0, math.exp(1 - len(reference) / len(text)))
    return brevity * math.exp(sum(logs) / _LONGEST)


def hidden_cosine(query: Query, evidence: Evidence) -> float | None:
    """Return the cosine of the mean hidden states of the generated text and the target; None without the vectors."""
    return evidence.cosines.get((evidence.texts[generation_prompt(query)], query.answers[0][0]))


def continue_paragraph(query: Query) -> Requests:
    """Return the request for a continuation that is compared with a paragraph, and may have several lines."""
    return continue_query(query, several_lines=True)


def _sentences(text: str) -> list[list[str]]:
    """Return the words of each sentence; the empty word, if it has none."""
    return [part.split() or [""] for part in text.split(".") if part]


def _ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """Return the different n-grams of a text's words, also over the end of a sentence."""
    words = list[str]()
    for sentence in _sentences(text):
        words += sentence
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def _characters(text: str, size: int) -> Counter[str]:
    """Return how often the text has each n-gram of characters."""
    return Counter(text[start : start + size] for start in range(len(text) - size + 1))


def _common_sequence(words: list[str], others: list[str]) -> list[str]:
    """Return the longest sequence of words that both lists have in this order.

    L[i][j], the length for the first i words and the first j others, is 0 where i or j is, and else:

    L[i][j] = L[i-1][j-1] + 1                if word i and other j are equal
    L[i][j] = max(L[i-1][j], L[i][j-1])      if not
    """
    lengths = [[0] * (len(others) + 1)]  # L, row by row
    for word in words:
        row = [0]
        before = lengths[-1]
        for column, other in enumerate(others):
            if word == other:
                row.append(before[column] + 1)
            else:
                row.append(max(before[column + 1], row[column]))
        lengths.append(row)
    # The sequence itself, from its end: two equal words belong to it; else the word is left out without which the rest
    # has the longer sequence.
    sequence = []
    first = len(words)
    second = len(others)
    while first and second:
        if words[first - 1] == others[second - 1]:
            first -= 1
            second -= 1
            sequence.append(words[first])
        elif lengths[first - 1][second] > lengths[first][second - 1]:
            first -= 1
        else:
            second -= 1
    return sequence


_UNKE = "UnKE (Deng et al. 2025)"
_ROUGE = (
    "ROUGE-1, -2 or -L as a recall: the share of the target's different words, pairs of words, or words of the "
    "longest common sequences of sentences, that are in the greedy continuation."
)
_BLEU = "BLEU of one to four characters against the target, not smoothed, of the greedy continuation."


def _compare_texts(compare: Callable[[str, str], float]) -> ScoreQuery:
    """Return a metric of a query: a comparison of the generated text with the target."""

    def compare_with_target(query: Query, evidence: Evidence) -> float:
        return compare(evidence.texts[generation_prompt(query)], query.answers[0][0])

    return compare_with_target


def _overlap(group: str, compare: Callable[[str, str], float], formula: str) -> Metric:
    """Return the share of words or characters that a generated text has in common with its target."""
    ask = continue_query if group == PARTS else continue_paragraph
    return Metric(
        compute=over_queries(group, _compare_texts(compare)),
        formula=formula,
        source=f"{_UNKE}.",
        needs=(group,),
        asks=(ask,),
    )


def _cosine(group: str) -> Metric:
    """Return the similarity in meaning of a generated text and its target."""
    return Metric(
        compute=over_queries(group, hidden_cosine),
        formula="Cosine of two mean hidden states: of the greedy continuation, and of the target. The states are those "
        "that the unedited model's head reads, averaged over all tokens but the first. The range of this score is "
        "narrow, so compare it only between runs.",
        source=f"{_UNKE}, which uses the sentence encoder all-MiniLM-L6-v2.",
        needs=(group,),
        asks=(continue_paragraph,),
        values="-1 to 1",
        in_meaning=True,
    )


def _greedy(group: str, what: str) -> Metric:
    """Return the share of questions whose greedy continuation has the answer in it."""
    return Metric(
        compute=over_queries(group, mentioned),
        formula=f"Share of {what} whose greedy continuation contains the answer as whole words.",
        source="This project. It is hard to match an answer that is a whole sentence.",
        needs=(group,),
        asks=(continue_query,),
    )


def _nll(group: str, after: str) -> Metric:
    """Return the mean -log p of the tokens of an answer."""
    return Metric(
        compute=over_queries(group, nll),
        formula=f"-log p of the answer after {after}, mean over its tokens.",
        source="This project.",
        needs=(group,),
        asks=(score_answer,),
        values="0 to ∞ nats a token",
        better="lower",
    )


def _list_paragraph_metrics(group: str) -> dict[str, Metric]:
    """Return the overlaps of the paragraphs after the edit's prompt, or after its paraphrases."""
    return {
        f"{group}.rouge_1.greedy": _overlap(group, rouge_1, _ROUGE),
        f"{group}.rouge_2.greedy": _overlap(group, rouge_2, _ROUGE),
        f"{group}.rouge_l.greedy": _overlap(group, rouge_l, _ROUGE),
        f"{group}.bleu.greedy": _overlap(group, bleu, _BLEU),
    }


UNSTRUCTURED_METRICS: Mapping[str, Metric] = {
    **_list_paragraph_metrics("unstructured"),
    **_list_paragraph_metrics(PARAPHRASE),
    f"{PARTS}.rouge_l.greedy": _overlap(PARTS, rouge_l, _ROUGE),
    f"unstructured.{COSINE}": _cosine("unstructured"),
    f"{PARAPHRASE}.{COSINE}": _cosine(PARAPHRASE),
    f"{PARTS}.greedy": _greedy(PARTS, "questions about parts of the text, in few-shot form,"),
    f"{PARTS}.nll": _nll(PARTS, "each of these questions"),
    f"{TRIPLE}.greedy": _greedy(TRIPLE, "statements of the text's facts"),
    f"{TRIPLE}.nll": _nll(TRIPLE, "each of these statements"),
}
