"""The mean hidden state of a text, by which two texts are compared in meaning without a sentence encoder."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from kg_edit.models.hooks import keep_untouched, record_last_call
from kg_edit.models.language_model import LanguageModel


def cosines(model: LanguageModel, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Return the cosine of the mean hidden states of each pair of texts; 0 if one of them has fewer than two tokens.

    The state is the one that the head reads, after the last norm, over all tokens but the first, which many models use
    as an attention sink. A patch of the prompt is not applied, one of the weights is.
    """
    pairs = tuple(pairs)
    means = dict[str, Tensor]()
    for pair in pairs:
        for text in pair:
            if text not in means:
                means[text] = _mean_state(model, text)
    similarities = {}
    for first, second in pairs:
        similarities[first, second] = float(cosine_similarity(means[first], means[second], dim=0))
    return similarities


def _mean_state(model: LanguageModel, text: str) -> Tensor:
    """Return the mean [d] in float32; a vector of zeros for a text of fewer than two tokens."""
    ids = model.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"]
    ids = ids[: model.max_positions]
    if len(ids) < 2:
        return torch.zeros(model.width)
    head_module = model.model.get_output_embeddings()
    # `keep_untouched` enables gradients, so `no_grad` comes after it.
    with keep_untouched(model), torch.no_grad(), record_last_call(head_module) as head:
        model.model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    return head.input[0, 1:].float().mean(0).cpu()
