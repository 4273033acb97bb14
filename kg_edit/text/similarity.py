"""Measure the similarity of short texts: the cosine of TF-IDF vectors or of a sentence encoder's embeddings, and BM25.

TF-IDF and BM25 weigh a word's count by the word's rarity. A `Scorer` of many texts scores each of them against a
prompt. The encoder is optional (``kg-edit[encoder]``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import ConfigError
from kg_edit.writing_systems import is_syllable

_WORD = re.compile(r"\w+|[^\w\s]")
_K1 = 1.2  # BM25: how soon a word's further occurrences stop counting

Vector = Mapping[str, float]


def words(text: str) -> list[str]:
    """Return the words and the single punctuation marks of a text, unchanged."""
    return _WORD.findall(text)


class Idf:
    """The inverse document frequency: idf = ln((1 + n) / (1 + df)) + 1, where df of n documents contain a word."""

    def __init__(self, documents: Iterable[Iterable[str]]) -> None:
        self._documents = 0
        self._frequencies = Counter[str]()  # df
        for document in documents:
            self._documents += 1
            self._frequencies.update(set(document))

    def __call__(self, word: str) -> float:
        """Return the word's inverse document frequency."""
        return math.log((1 + self._documents) / (1 + self._frequencies[word])) + 1

    def vector(self, tokens: Iterable[str]) -> Vector:
        """Return the TF-IDF vector of a text given as words: each word's count times its idf."""
        return {word: count * self(word) for word, count in Counter(tokens).items()}


def cosine(first: Vector, second: Vector) -> float:
    """Return the cosine of two sparse vectors; 0 if one is empty."""
    dot = sum(value * second.get(word, 0.0) for word, value in first.items())
    norms = math.hypot(*first.values()) * math.hypot(*second.values())
    if not norms:
        return 0.0
    return dot / norms


def load_idf() -> Idf:
    """Return the idf of words from the packaged relation templates: their words are common, names are rare.

    It does not depend on the texts that are searched, so a text's score does not depend on the other texts.
    """
    templates = {row.template for row in RelationTemplates.load().english_by_name.values()}
    return Idf(_plain_words(template) for template in templates)


Scorer = Callable[[str], list[float]]
"""A function: text -> its similarity to each of the texts that were indexed, [texts], at most 1."""


def share_index(names: Sequence[str]) -> Scorer:
    """Index names by the share of each that occurs in a text, 0 to 1; each word is weighted by its squared idf.

    The weights are squared as in the squared length of a TF-IDF vector, to which each word adds idf².
    """
    idf = load_idf()
    vectors = list[Vector]()
    for name in names:
        vectors.append({word: idf(word) ** 2 for word in _plain_words(name)})

    def score(text: str) -> list[float]:
        return _compute_shares(vectors, text)

    return score


def tfidf_index(texts: Sequence[str]) -> Scorer:
    """Index texts by their TF-IDF vectors: a score is the cosine, 0 to 1. Case and punctuation are ignored."""
    idf = load_idf()
    vectors = [idf.vector(_plain_words(text)) for text in texts]

    def score(text: str) -> list[float]:
        vector = idf.vector(_plain_words(text))
        return [cosine(vector, other) for other in vectors]

    return score


def bm25_index(texts: Sequence[str]) -> Scorer:
    """Index texts by BM25 (Robertson and Zaragoza 2009, Eq. 3.15): a share of the text's own best score, 0 to 1.

    BM25 = sum over the query's words of idf(w) f (k1 + 1) / (f + k1), with f the word's count in the text. The score is
    this sum, divided by the same sum over all words of the text. Facts are one sentence each, so b = 0: a longer one is
    not worth less.
    """
    idf = load_idf()
    vectors = list[Vector]()
    for text in texts:
        counts = Counter(_plain_words(text))
        vectors.append({word: idf(word) * f * (_K1 + 1) / (f + _K1) for word, f in counts.items()})

    def score(text: str) -> list[float]:
        return _compute_shares(vectors, text)

    return score


def _compute_shares(vectors: Sequence[Vector], text: str) -> list[float]:
    """Return the share of each vector's weight that is in the words of ``text``; 0 of an empty vector."""
    text_words = set(_plain_words(text))
    shares = []
    for vector in vectors:
        found = sum(weight for word, weight in vector.items() if word in text_words)
        total = sum(vector.values())
        shares.append(found / (total or 1.0))
    return shares


def _plain_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation, divided as in `_split_word`."""
    parts = list[str]()
    for word in words(text.casefold()):
        if word[0].isalnum():
            parts += _split_word(word)
    return parts


def _split_word(word: str) -> list[str]:
    """Return the word itself; in a script without spaces, and in Korean, its characters and pairs of neighbours.

    In these scripts, a subject is only a part of the text between two spaces; the pairs preserve the characters' order.
    """
    parts = list[str]()
    for in_syllables, run in groupby(word, is_syllable):
        text = "".join(run)
        if in_syllables:  # 三民主 gives 三, 民, 主, 三民 and 民主
            parts += list(text)
            parts += [first + second for first, second in pairwise(text)]
        else:
            parts.append(text)
    return parts


def encoder_index(texts: Sequence[str], encoder: str) -> Scorer:
    """Index texts by the embeddings of a sentence encoder: a score is the cosine; 0 instead of a negative one."""
    if not texts:
        return lambda _: []
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(
            f"the encoder {encoder!r} needs sentence-transformers, which is not installed: "
            "pip install 'kg-edit[encoder]', or leave encoder unset for TF-IDF"
        ) from error
    try:
        model = SentenceTransformer(encoder, device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't load the encoder {encoder!r}: {error}; give a model's name or folder") from error

    def embed(batch: Sequence[str]) -> Any:
        return model.encode(list(batch), normalize_embeddings=True, convert_to_numpy=True)  # [texts, size], length 1

    embeddings = embed(texts)

    def score(text: str) -> list[float]:
        cosines = embeddings @ embed([text])[0]  # [texts]
        return [max(0.0, float(value)) for value in cosines]

    return score


def index_of(texts: Sequence[str], encoder: str | None) -> Scorer:
    """Index texts by TF-IDF, or by the sentence encoder of this name (see `encoder_index`)."""
    if encoder is None:
        return tfidf_index(texts)
    return encoder_index(texts, encoder)


def best(scores: Sequence[float], most: int) -> list[int]:
    """Return the indices of the ``most`` highest scores, best first; of equal scores, the earlier one comes first."""
    return sorted(range(len(scores)), key=lambda number: (-scores[number], number))[:most]


def normalise_text(text: str) -> str:
    """Return the form of a text that `within_letters` compares: its words in lower case, without punctuation."""
    return " ".join(_plain_words(text))


def within_letters(first: str, second: str, most: int) -> bool:
    """Return whether at most ``most`` characters are inserted, deleted or replaced between two texts (Levenshtein).

    Cell (i, j) of the table is the number of changes between the first i letters of ``first`` and the first j of
    ``second``. With |i - j| > most it would be more than ``most``, so these cells are not computed.
    """
    if abs(len(first) - len(second)) > most:
        return False
    row = list(range(len(second) + 1))  # row 0: j letters are inserted
    for i, letter in enumerate(first, 1):
        above = row
        row = [i] + [most + 1] * len(second)  # in column 0, i letters are deleted
        begin = max(1, i - most)
        end = min(len(second), i + most)
        for j in range(begin, end + 1):
            kept_or_replaced = above[j - 1] + (letter != second[j - 1])
            deleted = above[j] + 1
            inserted = row[j - 1] + 1
            row[j] = min(kept_or_replaced, deleted, inserted)
        if min(row[begin - 1 : end + 1]) > most:  # later rows have no smaller cells
            return False
    return row[-1] <= most
