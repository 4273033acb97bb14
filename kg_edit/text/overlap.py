"""Compare a generated text with the text that it should be, by their common words: ROUGE-1, -2 and -L, and BLEU.

Words are compared without case; punctuation marks are words too (`kg_edit.text.similarity.words`).
"""

from __future__ import annotations

import math
from collections import Counter

from kg_edit.text.similarity import words

_LONGEST = 4  # words of BLEU's n-grams


def rouge_n(text: str, reference: str, size: int) -> float:
    """Return ROUGE-N (Lin 2004): the F1 of the common n-grams of ``size`` words, each counted as often as it occurs."""
    own, wanted = _grams(text, size), _grams(reference, size)
    return _f1((own & wanted).total(), own.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """Return ROUGE-L (Lin 2004): the F1 of the longest sequence of words that both texts have in this order."""
    own, wanted = _folded(text), _folded(reference)
    row = [0] * (len(wanted) + 1)  # the longest common sequence with the first words of the reference
    for word in own:
        before, row = row, [0]
        for place, other in enumerate(wanted):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return _f1(row[-1], len(own), len(wanted))


def bleu(text: str, reference: str) -> float:
    """Return BLEU (Papineni et al. 2002) of one text: n-grams of one to four words, not smoothed."""
    own, wanted = len(_folded(text)), len(_folded(reference))
    logs = []
    for size in range(1, _LONGEST + 1):
        grams = _grams(text, size)
        common = (grams & _grams(reference, size)).total()
        if not common:
            return 0.0
        logs.append(math.log(common / grams.total()))
    return min(1.0, math.exp(1 - wanted / own)) * math.exp(sum(logs) / _LONGEST)


def _folded(text: str) -> list[str]:
    return words(text.casefold())


def _grams(text: str, size: int) -> Counter[tuple[str, ...]]:
    found = _folded(text)
    return Counter(tuple(found[start : start + size]) for start in range(len(found) - size + 1))


def _f1(common: int, own: int, wanted: int) -> float:
    return 2 * common / (own + wanted) if own and wanted else 0.0
