"""A case as requests that any other program can run: log-likelihoods of texts, and greedy continuations.

`CaseRequests.requests` are what the lm-evaluation-harness asks a model (`kg_edit.evaluate.lm_eval_task`), and
`CaseRequests.evidence` puts the answers together again, so that the metrics are the same ones as of `kg-edit evaluate`.

A log-likelihood comes back as a sum over the tokens of a text and whether all of them are the arg-max. Where a metric
wants the share of arg-max tokens (teacher forcing), a target is asked token by token besides. Tokens whose text can't
be asked alone, such as a part of a character, are asked together and count as one answer.
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
    """A text that is scored after another one, and how many tokens it has: a target, or a part of one."""

    context: str
    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class CaseRequests:
    """What a case asks of a model with this tokenizer."""

    case: Case
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def targets(self) -> Mapping[Pair, Piece]:
        """Each pair's target as a whole.

        Raises:
            PromptError: a prompt's end and a target can't be told apart in tokens.
        """
        return {pair: target_of(self.tokenizer, pair) for pair in self.case.pairs}

    @cached_property
    def parts(self) -> Mapping[Pair, tuple[Piece, ...]]:
        """The tokens of those targets whose arg-max tokens are counted.

        Raises:
            PromptError: as `targets`.
        """
        return {pair: tuple(parts_of(self.tokenizer, pair)) for pair in self.case.forced_pairs}

    @cached_property
    def limits(self) -> Mapping[str, int]:
        """The most tokens that are written after each prompt."""
        return text_limits(self.tokenizer, self.case)

    @property
    def requests(self) -> tuple[TextRequest, ...]:
        """All requests: the pairs in their order, the parts of some, then the prompts."""
        parts = (part for own in self.parts.values() for part in own)
        return (
            *(TextRequest("loglikelihood", (one.context, one.text)) for one in self.targets.values()),
            *map(_asked_part, parts),
            *(TextRequest("generate_until", (prompt, _greedy(limit))) for prompt, limit in self.limits.items()),
        )

    def evidence(self, answers: Sequence[Any]) -> Evidence:
        """What the answers to `requests` say, in their order: (log-likelihood, whether all are the arg-max), or texts.

        A share of arg-max tokens that no metric counts is no number.
        """
        given = iter(answers)
        nll = {pair: -next(given)[0] / target.tokens for pair, target in self.targets.items()}
        shares = {pair: _share(own, [next(given) for _ in own]) for pair, own in self.parts.items()}
        scores = {pair: TokenScores(nll=loss, accuracy=shares.get(pair, math.nan)) for pair, loss in nll.items()}
        texts = {prompt: str(next(given)).split(LINE_END, 1)[0] for prompt in self.limits}
        return Evidence(scores=scores, texts=texts)

    def metrics(self, answers: Sequence[Any]) -> dict[str, float]:
        """The metrics that the case has; those that compare with the unedited model are missing."""
        evidence = self.evidence(answers)
        values = {name: metric(self.case, evidence) for name, metric in metrics_for(self.case).items()}
        return {name: float(value) for name, value in values.items() if value is not None}


def _greedy(limit: int, *, until: Sequence[str] = (LINE_END,)) -> dict[str, Any]:
    """Settings of a greedy continuation, by default to a line's end."""
    return {"until": list(until), "max_gen_toks": limit, "do_sample": False}


def _asked_part(part: Piece) -> TextRequest:
    """Whether a part is the arg-max; written, where it follows white space, which the harness moves behind it."""
    if part.context[-1:].isspace():
        return TextRequest("generate_until", (part.context, _greedy(part.tokens, until=())))
    return TextRequest("loglikelihood", (part.context, part.text))


def _share(parts: Sequence[Piece], answers: Sequence[tuple[float, bool] | str]) -> float:
    """The share of the parts' tokens that are the arg-max."""
    found = zip(parts, answers, strict=True)
    right = sum(part.tokens for part, said in found if (said == part.text if isinstance(said, str) else said[1]))
    return right / sum(part.tokens for part in parts)


def target_of(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> Piece:
    """The pair's target, with what joins it to its prompt.

    Raises:
        PromptError: the prompt's end and the target can't be told apart in tokens.
    """
    prompt = encode(tokenizer, pair.prompt, target=pair.candidate)
    return Piece(pair.prompt, prompt.text[len(pair.prompt) :], len(prompt.target_ids))


def parts_of(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> Iterator[Piece]:
    """The pair's target token by token, each after those before it.

    A part ends where the tokenizer makes the same tokens of the text up to there as of the whole text.

    Raises:
        PromptError: the prompt's end and the target can't be told apart in tokens.
    """
    prompt = encode(tokenizer, pair.prompt, target=pair.candidate)
    text, start, done = prompt.text, len(pair.prompt), prompt.target_start
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
