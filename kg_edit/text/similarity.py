"""How alike texts are: by TF-IDF, or by a sentence encoder that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

from kg_edit.errors import ConfigError
from kg_edit.retrieval.tfidf import TfIdf


class Index(Protocol):
    """Texts that can be searched."""

    def scores(self, text: str) -> list[float]:
        """How alike ``text`` is to each of the texts, at most 1."""


class Similarity(Protocol):
    """A measure of how alike two texts are."""

    def index(self, texts: Sequence[str]) -> Index:
        """The texts, to be searched."""


class SentenceEncoder:
    """Cosine of sentence embeddings (``kg-edit[encoder]``); the model is loaded when it is first needed."""

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
        """Embeddings of length 1, [texts, size]; a numpy array."""
        return self._model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True)

    def index(self, texts: Sequence[str]) -> EncodedIndex:
        """The texts, to be searched.

        Raises:
            ConfigError: sentence-transformers is not installed, or has no such model.
        """
        return EncodedIndex(self, texts)


class EncodedIndex:
    """Texts and their embeddings."""

    def __init__(self, encoder: SentenceEncoder, texts: Sequence[str]) -> None:
        self._encoder = encoder
        self._vectors = encoder.vectors(texts) if texts else None

    def scores(self, text: str) -> list[float]:
        """The cosine of ``text`` with each of the texts, 0 where it is negative."""
        if self._vectors is None:
            return []
        return [max(0.0, float(score)) for score in self._vectors @ self._encoder.vectors([text])[0]]


def similarity(encoder: str | None) -> Similarity:
    """TF-IDF, or the encoder of that name."""
    return TfIdf() if encoder is None else SentenceEncoder(encoder)


def best(scores: Sequence[float], most: int) -> list[int]:
    """The places of the highest scores, best first; among equals the earlier one comes first."""
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:most]
