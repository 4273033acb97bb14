"""What scores are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kg_edit.evaluate.pair import Pair, TokenScores


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a model did with a case's prompts, and what the unedited model did, where this one is edited.

    Attributes:
        scores: of (prompt, candidate) pairs.
        texts: greedy continuations by prompt.
        predicted: the arg-max token ids at a candidate's places, by pair.
        samples: prompts with what was sampled after them, by prompt.
        before: the unedited model's evidence, of which ``texts`` and ``predicted`` are there; None if this is its own.
    """

    scores: Mapping[Pair, TokenScores] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    predicted: Mapping[Pair, tuple[int, ...]] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)
    before: Evidence | None = None

    def nll(self, prompt: str, candidate: str) -> float:
        """The candidate's mean negative log-likelihood a token, in nats."""
        return self.scores[Pair(prompt.rstrip(), candidate)].nll
