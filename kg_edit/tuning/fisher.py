"""What a weight is needed for: the diagonal of its Fisher information, from text that the model itself writes."""

from __future__ import annotations

import torch
from torch import Tensor

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import document_start, sample_text
from kg_edit.tuning.loop import WeightChange
from kg_edit.tuning.rows import Row, RowLosses


def diagonal_fisher(model: LanguageModel, layer: int, *, texts: int, tokens: int, seed: int) -> Tensor:
    """F = E[(d log P(token) / d W)^2] of the down-projection in block ``layer``, [out, in], scaled to mean 1.

    The tokens are drawn from the model's own distribution, so this is the Fisher information itself and not the
    "empirical" one (Kirkpatrick et al., PNAS 2017, arXiv 1612.00796, Eq. 3). The score of a text is the sum of its
    tokens' scores, which are uncorrelated, so its square has the sum of theirs as its mean.
    """
    start = document_start(model.tokenizer)
    written = sample_text(model, rows=texts, tokens=tokens, seed=seed).tolist()
    change = WeightChange(model.down_projection(layer))
    total = torch.zeros_like(change.change)
    with change.worn():
        for text in written:
            ids = (start, *text)
            row = Row(ids=ids[:-1], wanted=tuple(enumerate(text)))
            (score,) = torch.autograd.grad(tokens * RowLosses(model, layer, [row])().sum(), change.change)
            total += score.square()
    mean = total.mean()
    return total / mean.clamp(min=torch.finfo(mean.dtype).tiny)
