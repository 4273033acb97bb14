"""Texts that a model writes after prompts: greedy and sampled.

`continuations`: greedy, up to the end of a line or of the text. `samples`: top-5 sampling to 100 tokens, as in the
published evaluations of fluency and portability, with a seed for each prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.sampling import plain_generation
from kg_edit.patches.weight_patch import WeightPatch, each_patched
from kg_edit.scoring.likelihood import check_lengths

BATCH_ROWS = 64
_SPREAD, _SLACK = 1.5, 8  # a batch's longest prompt against its shortest one, in tokens


@torch.no_grad()
def continuations(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    limits: Sequence[int],
    patches: Sequence[WeightPatch | None] | None = None,
) -> tuple[str, ...]:
    """What the model writes after each prompt, up to a line's end, the text's end or the prompt's limit in tokens.

    The text comes from the generated ids alone. Arg-max at each step, whatever the model's own generation settings.
    With ``patches``, one a prompt, each text is the model's with the patch in its place (None: as it is).

    Raises:
        ModelError: a prompt and what is written after it don't fit into the model's positions.
        PatchMismatchError: a patch is for another model.
    """
    encoded = [model.encode(prompt) for prompt in prompts]
    each_patch = [None] * len(prompts) if patches is None else patches
    texts: dict[int, str] = {}
    for rows in _alike([len(prompt.ids) for prompt in encoded]):
        most = max(limits[row] for row in rows)
        check_lengths(model, [encoded[row] for row in rows], more=most)  # a row that is done is fed on till the last is
        texts |= zip(
            rows,
            _continued(model, [encoded[r] for r in rows], [limits[r] for r in rows], [each_patch[r] for r in rows]),
            strict=True,
        )
    return tuple(texts[row] for row in range(len(prompts)))


def _alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of like lengths together, so that little is padded, and not too many at once."""
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) == BATCH_ROWS or lengths[row] > _SPREAD * lengths[group[0]] + _SLACK):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _continued(
    model: LanguageModel, prompts: Sequence[Prompt], limits: Sequence[int], patches: Sequence[WeightPatch | None]
) -> list[str]:
    batch = left_pad([prompt.ids for prompt in prompts], device=model.device)
    ends, width = _end_tokens(model), batch.ids.shape[1]
    stop = _Stop(model.tokenizer, width=width, limits=limits)
    generate = cast(Callable[..., Tensor], model.model.generate)
    with plain_generation(model), each_patched(model, patches, torch.arange(len(prompts))[:, None]):
        output = generate(
            batch.ids,
            attention_mask=batch.mask,
            generation_config=_greedy(max(limits), ends),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
    rows = output[:, width:].tolist()
    return [_text(model.tokenizer, row[:limit], ends) for row, limit in zip(rows, limits, strict=True)]


class _Stop(StoppingCriteria):
    """A row is done at a line's end or at its limit; rows have different limits, so that short ones cost little."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, width: int, limits: Sequence[int]) -> None:
        self._tokenizer, self._width, self._limits = tokenizer, width, limits

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        written = input_ids.shape[1] - self._width
        ends = ["\n" in self._tokenizer.decode([token]) for token in input_ids[:, -1].tolist()]
        done = [end or written >= limit for end, limit in zip(ends, self._limits, strict=True)]
        return torch.tensor(done, device=input_ids.device)


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: Sequence[int]) -> str:
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    text = tokenizer.decode(ids[:stop], skip_special_tokens=True)
    assert isinstance(text, str)  # noqa: S101 - one row in, one text out
    return text.split("\n", 1)[0]


def _end_tokens(model: LanguageModel) -> list[int]:
    configured = model.model.generation_config.eos_token_id if model.model.generation_config else None
    several = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*several, model.tokenizer.eos_token_id) if token is not None})


def _greedy(limit: int, ends: list[int]) -> GenerationConfig:
    """Generation settings: arg-max at each step, to ``limit`` tokens or one of ``ends``."""
    return GenerationConfig(
        max_new_tokens=limit, do_sample=False, eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0
    )


TOTAL_TOKENS = 100  # of the prompt and what follows it
_LIKELIEST = 5


def samples(model: LanguageModel, prompts: Iterable[str]) -> dict[str, str]:
    """Each prompt with what was sampled after it, from the 5 likeliest tokens a step, to 100 tokens in all.

    A prompt's own hash is its seed, so that a text does not depend on what else is asked. The state of the random
    generators is as before.

    Raises:
        ModelError: a prompt does not fit into the model's positions.
    """
    return {prompt: _sample(model, prompt) for prompt in dict.fromkeys(prompts)}


@torch.no_grad()
def _sample(model: LanguageModel, prompt: str) -> str:
    encoded = model.encode(prompt)
    more = TOTAL_TOKENS - len(encoded.ids)
    if more <= 0:
        return prompt
    check_lengths(model, [encoded], more=more)
    ids = torch.tensor([encoded.ids], device=model.device)
    generate = cast(Callable[..., Tensor], model.model.generate)
    with plain_generation(model), torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]))
        output = generate(ids, attention_mask=torch.ones_like(ids), generation_config=_settings(model, more))
    written = model.tokenizer.decode(output[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
    return prompt + str(written)


def _settings(model: LanguageModel, more: int) -> GenerationConfig:
    """A text ends at its end token or at the limit."""
    end = model.tokenizer.eos_token_id
    return GenerationConfig(
        max_new_tokens=more,
        do_sample=True,
        top_k=_LIKELIEST,
        eos_token_id=end,
        pad_token_id=end or 0,
    )
