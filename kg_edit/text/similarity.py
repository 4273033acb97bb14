"""Measure the similarity of short texts: the cosine of TF-IDF vectors or of a sentence encoder's embeddings, and BM25.

TF-IDF and BM25 weigh a word's count by the word's rarity. A `Similarity` makes an `Index` of many texts, which scores
each of them against a prompt. The encoder is optional (``kg-edit[encoder]``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, Protocol

from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import ConfigError
from kg_edit.text.scripts import is_syllable

_WORD = re.compile(r"\w+|[^\w\s]")
_K1 = 1.2  # BM25: how soon a word's further occurrences stop counting

Vector = Mapping[str, float]


def words(text: str) -> list[str]:
    """Return the words and the single punctuation marks of a text, unchanged."""
    return _WORD.findall(text)


class Rarity:
    """idf = ln((1 + n) / (1 + df)) + 1, where df of n documents contain a word."""

    def __init__(self, documents: Iterable[Iterable[str]]) -> None:
        sets = [set(document) for document in documents]
        self._documents, self._found = len(sets), Counter(word for document in sets for word in document)

    def __call__(self, word: str) -> float:
        """The word's inverse document frequency."""
        return math.log((1 + self._documents) / (1 + self._found[word])) + 1

    def vector(self, tokens: Iterable[str]) -> Vector:
        """Return the TF-IDF vector of a text given as words: each word's count times its idf."""
        return {word: count * self(word) for word, count in Counter(tokens).items()}


def cosine(first: Vector, second: Vector) -> float:
    """Return the cosine of two sparse vectors; 0 if one is empty."""
    dot = sum(value * second.get(word, 0.0) for word, value in first.items())
    norms = math.hypot(*first.values()) * math.hypot(*second.values())
    return dot / norms if norms else 0.0


class TfIdf:
    """Similarity by shared words, ignoring case and punctuation.

    The idf is that of the packaged relation templates: their words are common, names are rare. It does not depend on
    the texts that are searched, so a text's score does not depend on the other texts.
    """

    @cached_property
    def rarity(self) -> Rarity:
        """The idf of words, from the packaged relation templates."""
        templates = sorted({row.template for row in RelationTemplates.load().by_name.values()})
        return Rarity(map(_plain, templates))

    def vector(self, text: str) -> Vector:
        """Return the TF-IDF vector of a text, from its words in lower case."""
        return self.rarity.vector(_plain(text))

    def share(self, name: str, text: str) -> float:
        """Return the share of ``name`` that occurs in ``text``, 0 to 1; each word is weighted by its squared idf."""
        there = set(_plain(text))
        weights = {word: self.rarity(word) ** 2 for word in _plain(name)}
        whole = sum(weights.values())
        return sum(weight for word, weight in weights.items() if word in there) / whole if whole else 0.0

    def index(self, texts: Sequence[str]) -> TfIdfIndex:
        """Return an index that compares a text with each of ``texts``."""
        return TfIdfIndex(self, texts)


class TfIdfIndex:
    """Many texts with their TF-IDF vectors, to be compared with one text."""

    def __init__(self, tfidf: TfIdf, texts: Sequence[str]) -> None:
        self._tfidf, self._vectors = tfidf, [tfidf.vector(text) for text in texts]

    def scores(self, text: str) -> list[float]:
        """Return the cosine of ``text`` with each of the texts, 0 to 1."""
        vector = self._tfidf.vector(text)
        return [cosine(vector, own) for own in self._vectors]


class Bm25Index:
    """Many texts with the weights of their words, to be searched by BM25 (Robertson and Zaragoza 2009, Eq. 3.15).

    BM25 = sum over the query's words of idf(w) f (k1 + 1) / (f + k1), with f the word's count in the text. Facts are
    one sentence each, so b = 0: a longer one is not worth less.
    """

    def __init__(self, tfidf: TfIdf, texts: Sequence[str]) -> None:
        self._weights = [
            {word: tfidf.rarity(word) * f * (_K1 + 1) / (f + _K1) for word, f in Counter(_plain(text)).items()}
            for text in texts
        ]

    def scores(self, text: str) -> list[float]:
        """Return BM25 of each of the texts for the query ``text``, as a share of the text's own best score, 0 to 1."""
        query = set(_plain(text))
        return [
            sum(weight for word, weight in weights.items() if word in query) / (sum(weights.values()) or 1.0)
            for weights in self._weights
        ]


def _plain(text: str) -> list[str]:
    return [part for word in words(text.casefold()) if word[0].isalnum() for part in _parts(word)]


def _parts(word: str) -> Iterator[str]:
    """The word itself; for a script without spaces, and for Korean, its characters and pairs of adjacent characters.

    In these scripts, a subject is only a part of the text between two spaces; the pairs preserve the characters' order.
    """
    for together, run in groupby(word, is_syllable):
        text = "".join(run)
        yield from (*text, *map("".join, pairwise(text))) if together else (text,)


class Index(Protocol):
    """Many texts, to be compared with one text."""

    def scores(self, text: str) -> list[float]:
        """Return the similarity of ``text`` to each of the texts, at most 1."""


class Similarity(Protocol):
    """A measure of the similarity of two texts."""

    def index(self, texts: Sequence[str]) -> Index:
        """Return an index that compares a text with each of ``texts``."""


class SentenceEncoder:
    """Cosine of sentence embeddings (``kg-edit[encoder]``); the model is loaded at first use."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                f"the encoder {self.name!r} needs sentence-transformers, which is not installed: "
                "pip install 'kg-edit[encoder]', or leave encoder unset for TF-IDF"
            ) from error
        try:
            return SentenceTransformer(self.name, device="cpu")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"can't load the encoder {self.name!r}: {error}; give a model's name or folder"
            ) from error

    def vectors(self, texts: Sequence[str]) -> Any:
        """Return embeddings of length 1, a numpy array [texts, size]."""
        return self._model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True)

    def index(self, texts: Sequence[str]) -> EncodedIndex:
        """Return an index that compares a text with each of ``texts``.

        Raises:
            ConfigError: sentence-transformers is not installed, or has no such model.
        """
        return EncodedIndex(self, texts)


class EncodedIndex:
    """Many texts with their embeddings, to be compared with one text."""

    def __init__(self, encoder: SentenceEncoder, texts: Sequence[str]) -> None:
        self._encoder = encoder
        self._vectors = encoder.vectors(texts) if texts else None

    def scores(self, text: str) -> list[float]:
        """Return the cosine of ``text`` with each of the texts; 0 instead of a negative cosine."""
        if self._vectors is None:
            return []
        return [max(0.0, float(score)) for score in self._vectors @ self._encoder.vectors([text])[0]]


def similarity(encoder: str | None) -> Similarity:
    """Return TF-IDF if ``encoder`` is None, else the encoder of that name."""
    return TfIdf() if encoder is None else SentenceEncoder(encoder)


def best(scores: Sequence[float], most: int) -> list[int]:
    """Return the places of the ``most`` highest scores, best first; of equal scores, the earlier place comes first."""
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:most]


def letters_apart(first: str, second: str) -> int:
    """Return the Levenshtein distance of the texts' words, ignoring case: characters inserted, deleted or replaced."""
    one, other = (" ".join(_plain(text)) for text in (first, second))
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        before, row = row, [place]
        for column, wanted in enumerate(other):
            row.append(min(before[column + 1] + 1, row[column] + 1, before[column] + (letter != wanted)))
    return row[-1]
