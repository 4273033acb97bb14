"""A case as requests that any other program can run: log-likelihoods of texts, and greedy continuations.

`CaseRequests.requests` are what the lm-evaluation-harness asks a model (`kg_edit.evaluate.lm_eval_task`), and
`CaseRequests.evidence` puts the answers together again, so that the metrics are the same ones as of `kg-edit evaluate`.

A log-likelihood comes back as a sum over the tokens of a text and whether all of them are the arg-max. Where a metric
wants the share of arg-max tokens (teacher forcing), a target is asked token by token. Tokens whose text can't be asked
alone, such as a part of a character, are asked together and count as one answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from kg_edit.evaluate.case import Case
from kg_edit.evaluate.metrics.catalogue import metrics_for
from kg_edit.evaluate.metrics.metric import Evidence
from kg_edit.evaluate.scorer import text_limits
from kg_edit.models.prompts import encode
from kg_edit.scoring.likelihood import Pair, TokenScores

Kind = Literal["loglikelihood", "generate_until"]
LINE_END = "\n"


class TextRequest(NamedTuple):
    """A request: (context, continuation) to be scored, or (prompt, settings) to go on with."""

    kind: Kind
    arguments: tuple[str, Any]


class Piece(NamedTuple):
    """A part of a target that is scored by itself: the text before it, its own, and how many tokens it has."""

    context: str
    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class CaseRequests:
    """What a case asks of a model with this tokenizer."""

    case: Case
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def pieces(self) -> Mapping[Pair, tuple[Piece, ...]]:
        """Each pair's target: whole, or cut into its tokens where their number of arg-max ones counts.

        Raises:
            PromptError: a prompt's end and a target can't be told apart in tokens.
        """
        counted = set(self.case.forced_pairs)
        pairs = dict.fromkeys(self.case.pairs)
        return {pair: tuple(pieces_of(self.tokenizer, pair, whole=pair not in counted)) for pair in pairs}

    @cached_property
    def limits(self) -> Mapping[str, int]:
        """The most tokens that are written after each prompt."""
        return text_limits(self.tokenizer, self.case)

    @property
    def requests(self) -> tuple[TextRequest, ...]:
        """All requests: the pieces of the pairs in their order, then the prompts."""
        scored = (piece for pieces in self.pieces.values() for piece in pieces)
        return (
            *(TextRequest("loglikelihood", (piece.context, piece.text)) for piece in scored),
            *(TextRequest("generate_until", (prompt, _settings(limit))) for prompt, limit in self.limits.items()),
        )

    def evidence(self, answers: Sequence[Any]) -> Evidence:
        """What the answers to `requests`, in their order, say: (log-likelihood, all arg-max) a piece, then texts."""
        given, counted = iter(answers), set(self.case.forced_pairs)
        scores = {
            pair: _scores(pieces, [next(given) for _ in pieces], counted=pair in counted)
            for pair, pieces in self.pieces.items()
        }
        texts = {prompt: str(next(given)).split(LINE_END, 1)[0] for prompt in self.limits}
        return Evidence(scores=scores, texts=texts)

    def metrics(self, answers: Sequence[Any]) -> dict[str, float]:
        """The metrics that the case has; those that compare with the unedited model are missing."""
        evidence = self.evidence(answers)
        values = {name: metric(self.case, evidence) for name, metric in metrics_for(self.case).items()}
        return {name: float(value) for name, value in values.items() if value is not None}


def _settings(limit: int) -> dict[str, Any]:
    """Greedy, to a line's end."""
    return {"until": [LINE_END], "max_gen_toks": limit, "do_sample": False}


def _scores(pieces: Sequence[Piece], answers: Sequence[tuple[float, bool]], *, counted: bool) -> TokenScores:
    """The mean over a target's tokens; the share of arg-max ones is no number where they are not ``counted``."""
    count = sum(piece.tokens for piece in pieces)
    right = sum(piece.tokens for piece, (_, greedy) in zip(pieces, answers, strict=True) if greedy)
    nll = -sum(total for total, _ in answers) / count
    return TokenScores(nll=nll, accuracy=right / count if counted else math.nan)


def pieces_of(tokenizer: PreTrainedTokenizerBase, pair: Pair, *, whole: bool) -> Iterator[Piece]:
    """The pair's target in one piece, or token by token.

    A piece ends where the tokenizer makes the same tokens of the text up to there as of the whole text.

    Raises:
        PromptError: the prompt's end and the target can't be told apart in tokens.
    """
    prompt = encode(tokenizer, pair.prompt, target=pair.candidate)
    text, start, done = prompt.text, len(pair.prompt), prompt.target_start
    if not whole:
        for end, tokens in _cuts(tokenizer, text, prompt.ids, start):
            if tokens > done:
                yield Piece(text[:start], text[start:end], tokens - done)
                start, done = end, tokens
    if done < len(prompt.ids):
        yield Piece(text[:start], text[start:], len(prompt.ids) - done)


def _cuts(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], start: int) -> Iterator[tuple[int, int]]:
    """Places behind ``start`` at which ``text`` can be cut between two tokens, and how many tokens are before each."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for tokens, (_, end) in enumerate(offsets[: len(ids)], 1):
        if end > start and list(encode(tokenizer, text[:end]).ids) == list(ids[:tokens]):
            yield end, tokens
