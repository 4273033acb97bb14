"""Greedy decoding of many prompts that begin alike: what they share, such as few-shot examples, is computed once.

`greedy` gives the arg-max tokens after each row, and what the model expected at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import base_model, empty_prefix, mask_decides, run_prefix
from kg_edit.models.prompts import left_pad

_ROWS = 48


@dataclass(frozen=True)
class Written:
    """What a model writes after a row: ``tokens`` [steps], and the likeliest tokens at each step with their p.

    ``likeliest`` and ``probabilities`` are [steps, kept]; the first of each step is the token written.
    """

    tokens: tuple[int, ...]
    likeliest: Tensor
    probabilities: Tensor


@torch.no_grad()
def greedy(model: LanguageModel, rows: Sequence[Sequence[int]], *, steps: int, kept: int = 1) -> Iterator[Written]:
    """``steps`` arg-max tokens after each row of token ids, in the rows' order, a batch at a time."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    found: dict[int, Written] = {}
    for start in range(0, len(rows), _ROWS):
        some = order[start : start + _ROWS]
        found |= zip(some, _batch(model, [tuple(rows[place]) for place in some], steps, kept), strict=True)
    return (found[place] for place in range(len(rows)))


def _batch(model: LanguageModel, rows: Sequence[tuple[int, ...]], steps: int, kept: int) -> list[Written]:
    shared = _shared(model, rows, steps)
    start = run_prefix(model, [rows[0][:shared]]) if shared else empty_prefix(model, 1)
    start = start.rows(torch.zeros(len(rows), dtype=torch.long, device=model.device))
    cache, batch = start.growing(len(model.blocks)), left_pad([row[shared:] for row in rows], device=model.device)
    ids, mask, positions = batch.ids, torch.cat([start.mask, batch.mask], -1), start.lengths + batch.positions
    likeliest, probabilities = list[Tensor](), list[Tensor]()
    for _ in range(steps):
        final = list[Tensor]()  # before the last norm, which is a part of `LanguageModel.logits`
        with watched(model.blocks[-1], partial(_keep, final)):
            base_model(model)(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
        logits = model.logits(final[0][:, -1]).float()
        best = logits.softmax(-1).topk(min(kept, logits.shape[-1]))
        likeliest.append(best.indices)
        probabilities.append(best.values)
        ids = best.indices[:, :1].to(model.device)
        mask, positions = torch.cat([mask, torch.ones_like(ids)], -1), positions[:, -1:] + 1
    tokens, shares = torch.stack(likeliest, 1), torch.stack(probabilities, 1)
    return [Written(tuple(own[:, 0].tolist()), own, share) for own, share in zip(tokens, shares, strict=True)]


def _keep(seen: list[Tensor], _: Tensor, output: Tensor) -> None:
    seen.append(output)


def _shared(model: LanguageModel, rows: Sequence[tuple[int, ...]], steps: int) -> int:
    """How many tokens all rows begin with, one less than the shortest at most; 0 where a mask does not decide."""
    if not mask_decides(model, max(map(len, rows)) + steps):
        return 0
    alike = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    count = next((place for place, same in enumerate(alike) if not same), len(rows[0]))
    return min(count, min(map(len, rows)) - 1)
