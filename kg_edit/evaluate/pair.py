"""A prompt and what may follow it, and how a model scores that."""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """A prompt and a text that may follow it."""

    prompt: str
    candidate: str


class TokenScores(NamedTuple):
    """How a model scores a candidate after its prompt."""

    nll: float  # mean over the candidate's tokens of -log p(token | all before), in nats
    accuracy: float  # share of the candidate's tokens that are the arg-max, given those before
