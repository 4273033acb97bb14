"""A case as requests that another program can run: log-likelihoods of texts, and greedy continuations.

The lm-evaluation-harness sends `CaseRequests.requests` to a model (`kg_edit.evaluation.lm_eval_task`), and
`CaseRequests.evidence` turns the answers into evidence. So the metrics are the same as those of `kg-edit evaluate`.

The answer to a log-likelihood request is the sum over the tokens of a text, and whether all tokens are the arg-max. For
metrics of the share of arg-max tokens (teacher forcing), a target is also asked token by token. Tokens whose text can't
be asked alone, such as a part of a character, are asked together and count as one answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.catalogue import metrics_for
from kg_edit.evaluation.metrics.metric import Evidence
from kg_edit.evaluation.scorer import text_limits
from kg_edit.models.prompts import encode
from kg_edit.scoring.pairs import Pair, TokenScores

Kind = Literal["loglikelihood", "generate_until"]
LINE_END = "\n"


class TextRequest(NamedTuple):
    """A request: (context, continuation) to be scored, or (prompt, settings) to be continued."""

    kind: Kind
    arguments: tuple[str, Any]


class Piece(NamedTuple):
    """A text to be scored after a context, and its number of tokens: a target, or a part of one."""

    context: str
    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class CaseRequests:
    """The requests of a case to a model with this tokenizer."""

    case: Case
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def targets(self) -> Mapping[Pair, Piece]:
        """The whole target of each pair.

        Raises:
            PromptError: a prompt's end and its target can't be separated in tokens.
        """
        return {pair: target_of(self.tokenizer, pair) for pair in self.case.pairs}

    @cached_property
    def parts(self) -> Mapping[Pair, tuple[Piece, ...]]:
        """The tokens of the targets whose arg-max tokens are counted.

        Raises:
            PromptError: as `targets`.
        """
        return {pair: tuple(parts_of(self.tokenizer, pair)) for pair in self.case.forced_pairs}

    @cached_property
    def limits(self) -> Mapping[str, int]:
        """The largest number of tokens to write after each prompt."""
        return text_limits(self.tokenizer, self.case)

    @property
    def requests(self) -> tuple[TextRequest, ...]:
        """All requests: the pairs in their order, the parts of some, then the prompts."""
        paragraphs, parts = self.case.paragraphs, (part for pair_parts in self.parts.values() for part in pair_parts)
        return (
            *(TextRequest("loglikelihood", (piece.context, piece.text)) for piece in self.targets.values()),
            # A part after white space is generated, not scored: the harness would move the white space into the part.
            *(
                TextRequest("generate_until", (part.context, _greedy(part.tokens, until=())))
                if part.context[-1:].isspace()
                else TextRequest("loglikelihood", (part.context, part.text))
                for part in parts
            ),
            *(
                TextRequest(
                    "generate_until", (prompt, _greedy(limit, until=() if prompt in paragraphs else (LINE_END,)))
                )
                for prompt, limit in self.limits.items()
            ),
        )

    def evidence(self, answers: Sequence[Any]) -> Evidence:
        """Turn the answers to `requests`, in their order, into evidence.

        An answer is (log-likelihood, whether all tokens are the arg-max), or a text. The accuracy of a pair that no
        metric counts is NaN.
        """
        replies = iter(answers)
        nll = {pair: -next(replies)[0] / target.tokens for pair, target in self.targets.items()}
        # The share of a target's tokens that are the arg-max. The answer to a part that was generated is a text.
        shares = dict[Pair, float]()
        for pair, pair_parts in self.parts.items():
            right = 0
            for part in pair_parts:
                answer = next(replies)
                right += part.tokens * (answer == part.text if isinstance(answer, str) else answer[1])
            shares[pair] = right / sum(part.tokens for part in pair_parts)
        scores = {
            pair: TokenScores(nll=loss, accuracy=shares.get(pair, math.nan), tokens=self.targets[pair].tokens)
            for pair, loss in nll.items()
        }
        texts, paragraphs = dict[str, str](), self.case.paragraphs
        for prompt in self.limits:
            text = str(next(replies))
            texts[prompt] = " ".join(text.split()) if prompt in paragraphs else text.split(LINE_END, 1)[0]
        return Evidence(scores=scores, texts=texts)

    def metrics(self, answers: Sequence[Any]) -> dict[str, float]:
        """Return the metrics that the case has; metrics that compare with the unedited model are missing."""
        evidence = self.evidence(answers)
        values = {name: metric(self.case, evidence) for name, metric in metrics_for(self.case).items()}
        return {name: float(value) for name, value in values.items() if value is not None}


def _greedy(limit: int, *, until: Sequence[str]) -> dict[str, Any]:
    """Settings of a greedy continuation to one of the texts ``until``, or to its limit."""
    return {"until": list(until), "max_gen_toks": limit, "do_sample": False}


def target_of(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> Piece:
    """Return the pair's target, with the space that joins it to its prompt.

    Raises:
        PromptError: the prompt's end and the target can't be separated in tokens.
    """
    prompt = encode(tokenizer, pair.prompt, target=pair.candidate)
    return Piece(pair.prompt, prompt.text[len(pair.prompt) :], len(prompt.target_ids))


def parts_of(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> Iterator[Piece]:
    """Yield the pair's target token by token, each after the earlier ones.

    A part ends where the text up to there has the same tokens as in the whole text.

    Raises:
        PromptError: the prompt's end and the target can't be separated in tokens.
    """
    prompt = encode(tokenizer, pair.prompt, target=pair.candidate)
    text, ids = prompt.text, list(prompt.ids)
    start, done = len(pair.prompt), prompt.target_start  # characters and tokens so far
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for tokens, (_, end) in enumerate(offsets[: len(ids)], 1):
        if end > start and tokens > done and list(encode(tokenizer, text[:end]).ids) == ids[:tokens]:
            yield Piece(text[:start], text[start:end], tokens - done)
            start, done = end, tokens
    if done < len(ids):
        yield Piece(text[:start], text[start:], len(ids) - done)
