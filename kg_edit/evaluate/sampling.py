"""Texts sampled as the published evaluations of fluency and portability sample them, but with a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from kg_edit.evaluate.lengths import check_lengths
from kg_edit.models.language_model import LanguageModel
from kg_edit.plain_generation import plain_generation

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
