"""What fine-tuning asks of a model: rows of tokens, and which token each position that is read should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.models.replay import UpperForward

Aim = Literal["target", "text", "prompt_last"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Token ids, and pairs (position, token that it should predict)."""

    ids: tuple[int, ...]
    wanted: tuple[tuple[int, int], ...]


def row_of(prompt: Prompt, aim: Aim, *, end: int | None = None) -> Row:
    """What training on a prompt and its target means.

    ``target``: each target token is predicted from all before it, the prompt is masked. ``text``: so is every token of
    the prompt, as in training on plain text. ``prompt_last``: the prompt's last token alone predicts all target tokens
    (the published baselines FT and FT-L). ``end`` is one more token that ends the target.
    """
    start = prompt.target_start
    if aim == "prompt_last":
        return Row(ids=prompt.ids[:start], wanted=tuple((start - 1, token) for token in prompt.target_ids))
    ids = prompt.ids if end is None else (*prompt.ids, end)
    first = start if aim == "target" else 1
    return Row(ids=ids[:-1], wanted=tuple((at - 1, ids[at]) for at in range(first, len(ids))))


class RowLosses:
    """The rows' losses [rows] under whatever changes from block ``layer`` on: the mean of -log P over wanted tokens."""

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[Row]) -> None:
        pairs = [(index, at, token) for index, row in enumerate(rows) for at, token in row.wanted]
        self._forward = UpperForward(model, layer, [row.ids for row in rows], [(index, at) for index, at, _ in pairs])
        self._tokens = torch.tensor([token for _, _, token in pairs])
        self._owners = torch.tensor([index for index, _, _ in pairs])
        self._counts = torch.tensor([len(row.wanted) for row in rows])

    def __call__(self) -> Tensor:
        """[rows], in float32."""
        logits = self._forward().float()
        tokens, owners, counts = (index.to(logits.device) for index in (self._tokens, self._owners, self._counts))
        nll = cross_entropy(logits, tokens, reduction="none")
        return nll.new_zeros(len(counts)).index_add(0, owners, nll) / counts
