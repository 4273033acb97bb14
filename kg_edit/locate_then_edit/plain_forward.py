"""The plain forward pass of the objective: at every step all rows run through the whole model, without caches.

It is the reference for the fast version, `TailForward`. Tests compare the logits and gradients of both for every model
family.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.engine.replay import with_ends
from kg_edit.engine.tail_forward import read_index
from kg_edit.models.hooks import added, index_for, watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad


class PlainForward:
    """Runs rows of prompts through the whole model, with a change at the subject's last token in block ``layer``.

    Attributes:
        keys: the input of the down-projection at that token, in the model without the change, [rows, d_ff].
        values: its output there, [rows, d].
    """

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt]) -> None:
        self._model, self._layer, self._rows = model, layer, rows
        ends = [row.target_start - 1 for row in rows]
        self._batch = left_pad([row.ids for row in rows], device=model.device, ends=ends)
        pads = torch.tensor([self._batch.ids.shape[1] - len(row.ids) for row in rows], device=model.device)
        last = torch.tensor([row.edited_at for row in rows], device=model.device)
        self._at = (torch.arange(len(rows), device=model.device), pads + last)  # the subject's last tokens
        self._reads = read_index(rows, pads.tolist(), model.device)
        seen: list[Tensor] = []
        with torch.no_grad(), watched(model.down_projection(layer), lambda key, value: seen.extend((key, value))):
            self._forward()
        self.keys, self.values = (state.reshape(*self._batch.ids.shape, -1)[self._at] for state in seen)

    def subset(self, rows: Sequence[int]) -> PlainForward:
        """Return the forward of only the rows with these indices."""
        return PlainForward(self._model, self._layer, [self._rows[row] for row in rows])

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Return logits [reads, vocabulary] at the positions that the loss reads, as `TailForward.logits` does."""
        if change is None:
            return self._forward()[self._reads]
        shift = change

        def shifted(output: Tensor) -> Tensor:
            rows, length = self._batch.ids.shape
            addend = torch.zeros(rows, length, output.shape[-1], dtype=shift.dtype, device=shift.device)
            return output + addend.index_put(index_for(self._at, shift), shift).to(output).reshape(output.shape)

        with added(self._model.down_projection(self._layer), shifted):
            return self._forward()[self._reads]

    def _forward(self) -> Tensor:
        """The logits of the whole batch, [rows, tokens, vocabulary]."""
        batch = self._batch
        with with_ends(self._model, batch):
            output = self._model.model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            )
        logits: Tensor = output.logits
        return logits
