"""General ability: the strided perplexity of a text unrelated to any edit, such as WikiText-2's."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from kg_edit.errors import ConfigError, ModelError
from kg_edit.models.language_model import LanguageModel

WINDOW = 512
STRIDE = 256
TOKENS = 4096
_LONGEST = 32  # characters of the longest token: the text beyond tokens * _LONGEST is not tokenized
PERPLEXITY = "general.perplexity"


@torch.no_grad()
def perplexity(
    model: LanguageModel, text: str, *, window: int = WINDOW, stride: int = STRIDE, tokens: int | None = TOKENS
) -> float:
    """Return exp of the mean of -log p(token | earlier tokens of its window), over a text's first tokens.

    Windows of ``window`` tokens (fewer for a model with fewer positions) start every ``stride`` tokens. A token is
    scored once, in the first window that contains it. So behind the first window, each token has at least
    window - stride tokens before it, and in a model with fewer positions at least one. Only the first window begins
    with the tokenizer's BOS, if it has one, so the value of a model such as Gemma 3 is higher than where each window
    begins with it (70.9 against 47.5).

    Args:
        model: the model.
        text: the text.
        window: tokens of a window, at most.
        stride: tokens between the starts of two windows.
        tokens: the number of first tokens of the text to use; None: all.
    """
    if tokens is not None:
        text = text[: tokens * _LONGEST]
    ids = torch.tensor(model.tokenizer(text)["input_ids"][:tokens])
    size = window
    if model.max_positions is not None:
        size = min(window, model.max_positions)
    losses = list[Tensor]()
    next_token = 1  # the first token that is not scored yet; token 0 never is, because nothing is before it
    stride = min(stride, size - 1)  # windows overlap by at least the token that predicts the next one
    for start in range(0, len(ids), stride):
        end = min(start + size, len(ids))
        if end > next_token:  # of this window, only the tokens that no earlier window has
            window_ids = ids[start:end]
            output = model.model(input_ids=window_ids[None].to(model.device), use_cache=False)
            logits = output.logits[0, :-1].float()  # [window - 1, vocabulary]
            nll = torch.nn.functional.cross_entropy(logits, window_ids[1:].to(logits.device), reduction="none")
            # nll [window - 1] has the tokens start + 1 to end - 1 of the text. With windows of 512, the second one
            # starts at 256, and 512 tokens are scored: nll[255:] is that of the tokens 512 to 767.
            losses.append(nll[next_token - start - 1 :])
            next_token = end
    if not losses:
        raise ModelError("the text for general ability has fewer than two tokens; give a text of some thousand words")
    mean = torch.cat(losses).cpu().double().mean().item()
    if not math.isfinite(mean) or mean > math.log(torch.finfo(torch.float64).max):
        raise ModelError("the model's output on the text for general ability is not finite; load the model in float32")
    return math.exp(mean)


def read_text(path: Path) -> str:
    """Read the text of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't read the text {path} for general ability: {error}; give a UTF-8 text file") from error
    if not text.strip():
        raise ConfigError(f"the text {path} for general ability is empty; give a text of some thousand words")
    return text


def general_scores(model: LanguageModel, text: str) -> dict[str, float | None]:
    """Return the metric ``general.perplexity`` on ``text``."""
    return {PERPLEXITY: perplexity(model, text)}
