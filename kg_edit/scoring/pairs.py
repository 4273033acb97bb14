"""A prompt with a text that may follow it, and the scores of that text; the metrics read them without torch."""

from __future__ import annotations

import math
from typing import NamedTuple

LIKELIEST = 20  # how many next tokens have their probabilities compared


class Pair(NamedTuple):
    """A prompt, and a candidate text that may follow it."""

    prompt: str
    candidate: str


class TokenScores(NamedTuple):
    """The scores of a candidate after its prompt."""

    nll: float  # mean over the candidate's tokens of -log p(token | all before), in nats
    accuracy: float  # share of the candidate's tokens that are the arg-max, given those before
    tokens: int = 1  # the number of the candidate's tokens

    @property
    def total_nll(self) -> float:
        """The negative log-likelihood of the whole candidate, sum over its tokens, in nats."""
        return self.nll * self.tokens

    @property
    def probability(self) -> float:
        """The probability of the whole candidate."""
        return math.exp(-self.total_nll)
