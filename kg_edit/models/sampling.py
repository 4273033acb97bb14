"""Sample texts from the model. Put before a prompt as contexts, they make an edit succeed after other text too.

`sample_contexts` makes ROME's contexts, `sample_started_contexts` MEMIT's. `sample_text` and `continue_text` sample
from the model's own distribution, ignore its generation settings, and leave torch's global generator unchanged. A text
is the same on every device, up to rounding of the model's logits (`make_sampler`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.generation.logits_process import TopKLogitsWarper

from kg_edit.errors import ModelError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad

log = logging.getLogger(__name__)
BARE = "{}"
STARTS = ("The", "Therefore", "Because", "I", "You")


def sample_contexts(
    model: LanguageModel, *, lengths: tuple[tuple[int, int], ...] = ((5, 10), (10, 10)), seed: int = 0
) -> tuple[str, ...]:
    """Return ``{}`` and, for each (length, count), ``count`` sampled texts followed by ``. {}`` (ROME's templates).

    A length counts tokens with the document's start token, as in the published code; sampling is top-5.
    """
    contexts = [BARE]
    for length, count in lengths:
        if count == 0:
            continue
        ids = sample_text(model, rows=count, tokens=length - 1, top_k=5, seed=seed + length)
        texts = model.tokenizer.batch_decode(ids, skip_special_tokens=True)
        contexts += [_as_context(text) for text in texts]
    return tuple(contexts)


def sample_started_contexts(
    model: LanguageModel, *, starts: Sequence[str] = STARTS, tokens: int = 10, seed: int = 0
) -> tuple[str, ...]:
    """Return ``{}`` and, for each of ``starts``, a sampled text of ``tokens`` tokens that begins with it (MEMIT's).

    As in `sample_contexts`, each text follows the document's start token, which is not counted. A start that is longer
    than ``tokens`` stays whole.
    """
    if not starts:
        return (BARE,)
    start_ids = [model.tokenizer(start, add_special_tokens=False)["input_ids"] for start in starts]
    batch = left_pad([[document_start(model.tokenizer), *ids] for ids in start_ids], device=model.device)
    missing = tokens - min(len(ids) for ids in start_ids)  # tokens that the shortest text lacks
    rows = start_ids
    if missing > 0:
        # Every row gets as many tokens as the shortest start needs; rows of longer starts are cut back.
        sampled = continue_text(model, batch.ids, batch.mask, tokens=missing, seed=seed, top_k=5).tolist()
        rows = []
        for start, more in zip(start_ids, sampled, strict=True):
            length = max(tokens, len(start))
            rows.append([*start, *more][:length])
    texts = model.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return (BARE, *map(_as_context, texts))


def _as_context(text: str) -> str:
    """Return the context of a text: the text without braces, and ``{}`` in the next sentence."""
    without_braces = text.replace("{", " ").replace("}", " ")
    return f"{without_braces}. {BARE}"


def sample_text(model: LanguageModel, *, rows: int, tokens: int, seed: int, top_k: int = 0) -> Tensor:
    """Sample ``rows`` texts of ``tokens`` tokens from the document's start: ids [rows, tokens].

    No global random generator changes.
    """
    start = torch.full((rows, 1), document_start(model.tokenizer), device=model.device)
    return continue_text(model, start, torch.ones_like(start), tokens=tokens, seed=seed, top_k=top_k)


def sample_rows(model: LanguageModel, *, rows: int, tokens: int, seed: int) -> list[tuple[int, ...]]:
    """Sample ``rows`` texts as `sample_text` does; each has ``tokens`` + 1 ids, of which the first is the start."""
    start = document_start(model.tokenizer)
    return [(start, *row) for row in sample_text(model, rows=rows, tokens=tokens, seed=seed).tolist()]


@torch.no_grad()
def continue_text(model: LanguageModel, ids: Tensor, mask: Tensor, *, tokens: int, seed: int, top_k: int = 0) -> Tensor:
    """Sample ``tokens`` tokens after left-padded ``ids`` [rows, length]: ids [rows, tokens].

    No text has a special token. The model's own generation settings are ignored, and no global random generator
    changes.
    """
    with plain_generation(model):
        output = model.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=mask,
            logits_processor=make_sampler(seed=seed, top_k=top_k),
            do_sample=False,  # `_DrawToken` draws
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            eos_token_id=None,  # no text ends early
            suppress_tokens=sorted(set(model.tokenizer.all_special_ids)),
            pad_token_id=0,
        )
    assert isinstance(output, Tensor)  # noqa: S101 - generate returns ids unless asked otherwise
    return output[:, ids.shape[1] :]


class _DrawToken(LogitsProcessor):
    """Draws a token for each row and gives it the highest score; on a CPU, the one that `torch.multinomial` draws."""

    def __init__(self, *, seed: int, top_k: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._likeliest = TopKLogitsWarper(top_k) if top_k else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return p_i / t_i with p = softmax(scores) and t_i ~ Exp(1); both are [rows, vocabulary].

        argmax_i p_i / t_i is token i with probability p_i, and ``generate`` takes the argmax.
        """
        if self._likeliest:
            scores = self._likeliest(input_ids, scores)
        # Why: t_i / p_i is an exponential time of rate p_i, and that of token i is the least with probability p_i.
        times = torch.empty(scores.shape, dtype=scores.dtype).exponential_(generator=self._generator)
        return scores.softmax(dim=-1) / times.to(scores.device)


def make_sampler(*, seed: int, top_k: int = 0) -> LogitsProcessorList:
    """Return what makes ``generate`` sample from all tokens, or from the ``top_k`` likeliest, without ``do_sample``.

    Its random numbers are drawn on the CPU: the generators of other devices would give other texts for a seed.
    """
    return LogitsProcessorList([_DrawToken(seed=seed, top_k=top_k)])


@contextmanager
def plain_generation(model: LanguageModel) -> Iterator[None]:
    """Inside the ``with`` block, ``generate`` ignores the model's generation settings: penalties, beams, banned tokens.

    Otherwise ``generate`` takes every option that it is not given from these settings, even when it gets a
    `GenerationConfig`.
    """
    settings = model.model.generation_config
    model.model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.model.generation_config = settings


def document_start(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token with which a document begins: BOS, else EOS (GPT-2's end of text)."""
    for candidate in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    raise ModelError("the tokenizer has no token that starts a document; set its bos_token")
