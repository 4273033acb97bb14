"""The forward pass of the objective in a model whose blocks are not all attention (Qwen3.5, LFM2).

A recurrent block has no keys and values of the tokens before the subject that could be cached. So the whole rows run,
from the edited block on; the blocks below it, which a change does not reach, run once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.engine.replay import RecordedBlocks
from kg_edit.engine.tail_forward import read_index, right_pad
from kg_edit.models.hooks import change_output, index_for, record_last_call
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt


class WholeForward:
    """Runs rows of prompts from block ``layer`` on, with a change there at the subject's last token.

    Attributes:
        keys: the input of the down-projection at that token, in the model without the change, [rows, d_ff].
        values: its output there, [rows, d].
    """

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt]) -> None:
        self._model = model
        self._layer = layer
        self._rows = rows
        self._reads = read_index(rows, [0] * len(rows), model.device)
        positions = torch.tensor([row.edited_at for row in rows], device=model.device)
        self._subjects = (torch.arange(len(rows), device=model.device), positions)  # rows, and subjects' last tokens
        batch = right_pad([row.ids for row in rows], model.device, ends=[row.target_start - 1 for row in rows])
        with torch.no_grad(), record_last_call(model.down_projection(layer)) as call:
            blocks = range(layer, len(model.blocks))
            self._blocks, self._clean = RecordedBlocks.record(model, batch, blocks)
        keys = call.input.reshape(*batch.ids.shape, -1)  # some models flatten rows and tokens
        values = call.output.reshape(*batch.ids.shape, -1)
        self.keys = keys[index_for(self._subjects, keys)]
        self.values = values[index_for(self._subjects, values)]

    def subset(self, rows: Sequence[int]) -> WholeForward:
        """Return the forward of only the rows with these indices."""
        return WholeForward(self._model, self._layer, [self._rows[row] for row in rows])

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Return logits [reads, vocabulary] at the positions that the loss reads, as `TailForward.logits` does."""
        if change is None:
            return self._model.logits(self._clean[index_for(self._reads, self._clean)])
        delta = change  # not None from here on, also in `add_change`

        def add_change(output: Tensor) -> Tensor:
            addend = delta.new_zeros(*self._clean.shape[:2], output.shape[-1])  # [rows, tokens, d]
            # Row i of delta goes to row i, at its subject's last token.
            addend = addend.index_put(index_for(self._subjects, delta), delta)
            return output + addend.to(output).reshape(output.shape)

        with change_output(self._model.down_projection(self._layer), add_change):
            hidden = self._blocks.run(self._blocks.first_input)
        return self._model.logits(hidden[index_for(self._reads, hidden)])
