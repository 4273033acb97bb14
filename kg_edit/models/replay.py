"""Token rows through a model of which only the blocks from one on change between two passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.models.hooks import Call, beside, hidden_state, recorded, watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import base_model
from kg_edit.models.prompts import left_pad


class UpperForward:
    """Logits [reads, vocabulary] at chosen positions, differentiable in whatever changes from block ``layer`` on.

    The first pass runs the whole model and records how it called its blocks; later ones start from block ``layer``,
    as nothing below it changes. The blocks get the arguments that the model itself gave them, so masks, windows and
    positions are right by construction.
    """

    def __init__(
        self, model: LanguageModel, layer: int, rows: Sequence[Sequence[int]], reads: Sequence[tuple[int, int]]
    ) -> None:
        """``reads``: (row, position in that row) of each logit that is wanted."""
        self._model, self._layer = model, layer
        self._batch = left_pad(rows, device=model.device)
        pads = [self._batch.ids.shape[1] - len(row) for row in rows]
        self._reads = tuple(torch.tensor(index) for index in zip(*((r, pads[r] + at) for r, at in reads), strict=True))
        self._calls: list[Call] = []

    def __call__(self) -> Tensor:
        """The logits, read after read."""
        hidden = self._again() if self._calls else self._first()
        return self._model.logits(hidden[beside(self._reads, hidden)])

    def _first(self) -> Tensor:
        blocks, batch = self._model.blocks, self._batch
        calls: dict[int, Call] = {}
        final: list[Tensor] = []
        with recorded(blocks, calls), watched(blocks[-1], lambda _, output: final.append(output)):
            base_model(self._model)(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            )
        self._start = state_of(calls[self._layer]).detach()
        self._calls = [_without_state(calls[index]) for index in range(self._layer, len(blocks))]
        return final[0]

    def _again(self) -> Tensor:
        hidden = self._start
        for block, (args, kwargs) in zip(self._model.blocks[self._layer :], self._calls, strict=True):
            if args:
                hidden = hidden_state(block(hidden, *args[1:], **kwargs))
            else:
                hidden = hidden_state(block(**{**kwargs, "hidden_states": hidden}))
        return hidden


def state_of(call: Call) -> Tensor:
    """The hidden state that a block was called with."""
    args, kwargs = call
    state: Tensor = args[0] if args else kwargs["hidden_states"]
    return state


def _without_state(call: Call) -> Call:
    """The call but for its hidden state, which is replaced anyway, and holds a graph."""
    args, kwargs = call
    return ((None, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": None})
