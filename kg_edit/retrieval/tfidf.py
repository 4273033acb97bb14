"""TF-IDF vectors of short texts: a word's count times how rare it is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from kg_edit.edits.templates import RelationTemplates

_WORD = re.compile(r"\w+|[^\w\s]")

Vector = Mapping[str, float]


def words(text: str) -> list[str]:
    """The words and the single punctuation marks of a text, as they are written."""
    return _WORD.findall(text)


class Rarity:
    """idf = ln((1 + n) / (1 + df)) + 1 over n documents of which df hold a word."""

    def __init__(self, documents: Iterable[Iterable[str]]) -> None:
        sets = [set(document) for document in documents]
        self._documents, self._found = len(sets), Counter(word for document in sets for word in document)

    def __call__(self, word: str) -> float:
        """The word's idf."""
        return math.log((1 + self._documents) / (1 + self._found[word])) + 1

    def vector(self, tokens: Iterable[str]) -> Vector:
        """Each word's count times its idf."""
        return {word: count * self(word) for word, count in Counter(tokens).items()}


def cosine(first: Vector, second: Vector) -> float:
    """Of two sparse vectors; 0 where one is empty."""
    dot = sum(value * second.get(word, 0.0) for word, value in first.items())
    norms = math.hypot(*first.values()) * math.hypot(*second.values())
    return dot / norms if norms else 0.0


class TfIdf:
    """Similarity by shared words, in any case, without punctuation.

    Rarity is that of the packaged relation templates: what relations are worded with is common, names are rare. It does
    not depend on the texts that are searched, so that a text's score is the same whatever stands beside it.
    """

    @cached_property
    def _rarity(self) -> Rarity:
        templates = sorted({row.template for row in RelationTemplates.load().by_name.values()})
        return Rarity(map(_plain, templates))

    def vector(self, text: str) -> Vector:
        """A text's TF-IDF vector."""
        return self._rarity.vector(_plain(text))

    def share(self, name: str, text: str) -> float:
        """How much of ``name`` stands in ``text``, 0 to 1: of its words' squared idf, that of the words found there."""
        there = set(_plain(text))
        weights = {word: self._rarity(word) ** 2 for word in _plain(name)}
        whole = sum(weights.values())
        return sum(weight for word, weight in weights.items() if word in there) / whole if whole else 0.0

    def index(self, texts: Sequence[str]) -> TfIdfIndex:
        """The texts, to be searched."""
        return TfIdfIndex(self, texts)


class TfIdfIndex:
    """Texts and their vectors."""

    def __init__(self, tfidf: TfIdf, texts: Sequence[str]) -> None:
        self._tfidf, self._vectors = tfidf, [tfidf.vector(text) for text in texts]

    def scores(self, text: str) -> list[float]:
        """The cosine of ``text`` with each of the texts, 0 to 1."""
        vector = self._tfidf.vector(text)
        return [cosine(vector, own) for own in self._vectors]


def _plain(text: str) -> list[str]:
    return [word for word in words(text.casefold()) if word[0].isalnum()]
