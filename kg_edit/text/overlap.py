"""Compare a generated text with the text that it should be: ROUGE-1, -2 and -L, and BLEU, as in the program of UnKE.

It takes the recall of the package rouge 1.0.1, where words are divided by spaces and sentences by full stops, and a
word or n-gram counts once; and BLEU of characters (nltk's `sentence_bleu` of two strings).
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

_LONGEST = 4  # characters of BLEU's n-grams


def rouge_n(text: str, reference: str, size: int) -> float:
    """Return ROUGE-N (Lin 2004): the share of the reference's different n-grams of ``size`` words that the text has."""
    ngrams, reference_ngrams = (
        set(zip(*(words[start:] for start in range(size)), strict=False))
        for words in (list(chain(*_sentences(string))) for string in (text, reference))
    )
    return len(ngrams & reference_ngrams) / len(reference_ngrams) if reference_ngrams else 0.0


def rouge_l(text: str, reference: str) -> float:
    """Return ROUGE-L (Lin 2004): the share of the reference's different words that a common sequence has.

    The sequence is the longest one that a sentence of the text and one of the reference have in this order; words of
    all pairs of sentences count.
    """
    sentences = _sentences(reference)
    common = {word for sentence in sentences for other in _sentences(text) for word in _common(sentence, other)}
    words = {*chain(*sentences)}
    return len(common) / len(words) if words else 0.0


def bleu(text: str, reference: str) -> float:
    """Return BLEU (Papineni et al. 2002) of one text: n-grams of one to four characters, not smoothed."""
    logs = []
    for size in range(1, _LONGEST + 1):
        counts, reference_counts = (
            Counter(string[start : start + size] for start in range(len(string) - size + 1))
            for string in (text, reference)
        )
        common = (counts & reference_counts).total()
        if not common:
            return 0.0
        logs.append(math.log(common / counts.total()))
    return min(1.0, math.exp(1 - len(reference) / len(text))) * math.exp(sum(logs) / _LONGEST)


def _sentences(text: str) -> list[list[str]]:
    return [part.split() or [""] for part in text.split(".") if part]


def _common(words: list[str], others: list[str]) -> list[str]:
    """Return the longest sequence of words that both lists have in this order."""
    lengths = [[0] * (len(others) + 1)]  # [i][j]: of the longest one of the first i words and the first j others
    for word in words:
        row = [0]
        before = lengths[-1]
        for column, other in enumerate(others):
            row.append(before[column] + 1 if word == other else max(before[column + 1], row[column]))
        lengths.append(row)
    sequence = []
    first = len(words)
    second = len(others)
    while first and second:
        if words[first - 1] == others[second - 1]:
            first = first - 1
            second = second - 1
            sequence.append(words[first])
        elif lengths[first - 1][second] > lengths[first][second - 1]:
            first -= 1
        else:
            second -= 1
    return sequence
