"""Activations of a model in texts that it writes itself; they stand for text that no edit is about."""

from __future__ import annotations

import torch
from torch import Tensor

from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad
from kg_edit.models.replay import block_output
from kg_edit.models.sampling import document_start, sample_text
from kg_edit.patches.adapter_hooks import Reads, read_module


def own_texts(model: LanguageModel, *, texts: int, tokens: int, seed: int) -> list[tuple[int, ...]]:
    """Sample texts from the model: ``texts`` rows of ``tokens`` + 1 ids, the first one being the document's start."""
    start = document_start(model.tokenizer)
    return [(start, *row) for row in sample_text(model, rows=texts, tokens=tokens, seed=seed).tolist()]


@torch.no_grad()
def own_text_inputs(model: LanguageModel, layer: int, *, reads: Reads, texts: int, tokens: int, seed: int) -> Tensor:
    """The inputs of a side of block ``layer`` at the tokens of such texts, [texts * (tokens + 1), .] in float32."""
    found: list[Tensor] = []
    rows = own_texts(model, texts=texts, tokens=tokens, seed=seed)
    with watched(
        read_module(model, layer, reads),
        lambda inputs, _: found.append(inputs.reshape(-1, inputs.shape[-1]).float()),
    ):
        block_output(model, left_pad(rows, device=model.device), layer)
    return found[0]
