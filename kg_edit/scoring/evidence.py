"""What a model answered to requests, which metrics and the report judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kg_edit.patches.walks import ShownWalk
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.requests import Conversation


class Exchange(NamedTuple):
    """The first step of a conversation, an answer or a thought, and the answer at its end."""

    first: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A model's answers to `kg_edit.scoring.requests.Requests`, and those of the unedited model if this one is edited.

    Attributes:
        scores: the scores of (prompt, candidate) pairs.
        texts: greedy continuations by prompt.
        compared: the parts of them that are compared with the unedited model's, by prompt.
        predicted: the arg-max token ids at a candidate's positions, by pair.
        samples: each prompt with the text sampled after it, by prompt.
        next_tokens: log p of tokens that may follow a prompt, by prompt and token id. They are the tokens that are the
            likeliest for the unedited model, also if this evidence is an edited model's.
        exchanges: what was said in each conversation.
        walks: the statements of a graph that a patch of the prompt puts before each continued text, by prompt; empty
            without such a patch.
        cosines: the similarity of a generated text and its target, by (text, target); empty if it was not computed.
        before: the answers of the unedited model to the same requests, with which this model's are compared. Only their
            ``texts``, ``compared``, ``predicted`` and ``next_tokens`` are needed. None if this model is the unedited
            one.
    """

    scores: Mapping[Pair, TokenScores] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    compared: Mapping[str, str] = field(default_factory=dict)
    predicted: Mapping[Pair, tuple[int, ...]] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)
    next_tokens: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    exchanges: Mapping[Conversation, Exchange] = field(default_factory=dict)
    walks: Mapping[str, ShownWalk] = field(default_factory=dict)
    cosines: Mapping[tuple[str, str], float] = field(default_factory=dict)
    before: Evidence | None = None

    def nll(self, prompt: str, candidate: str) -> float:
        """Return the candidate's mean negative log-likelihood per token, in nats."""
        return self.score(prompt, candidate).nll

    def score(self, prompt: str, candidate: str) -> TokenScores:
        """Return the candidate's teacher-forced scores after a prompt.

        The prompts of `scores` have no space at their end, because that space belongs to the candidate's first token.
        """
        return self.scores[Pair(prompt.rstrip(), candidate)]
