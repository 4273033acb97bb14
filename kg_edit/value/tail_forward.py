"""The fast way to ask what a change does: run only what it can reach.

A change at the subject's last token in layer l reaches that token from layer l on, and later tokens from layer l+1 on.
All before is computed once: the tokens in front of the subject's last one as keys and values (`prefix_cache`), the
later tokens' states up to layer l+1. A step then runs block l on one token a row, and the blocks above on the tail
tokens alone (`RecordedBlocks`). `PlainForward` is its oracle: the same logits from the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.models.hooks import added, beside, run_at_positions, watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import Prefix, SharedContexts, quick_backward, run_prefix
from kg_edit.models.prompts import Batch, Prompt
from kg_edit.models.replay import RecordedBlocks
from kg_edit.value.plain_forward import read_index, read_positions


class TailForward:
    """Rows of prompts with a change at the subject's last token in block ``layer``; only their tails are run.

    ``keys`` [rows, d_ff] and ``values`` [rows, d] are the clean input and output of the down-projection there.
    """

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        rows: Sequence[Prompt],
        *,
        contexts: SharedContexts | None = None,
        prefix: Prefix | None = None,
    ) -> None:
        """``contexts``: what rows begin with, computed once for many forwards; ``prefix``: all before the tails."""
        starts = [row.ids[: row.edited_at] for row in rows]
        tails = [tail(row) for row in rows]
        if prefix is None:
            beyond = max(map(len, tails))
            prefix = contexts.prefix(model, starts, beyond=beyond) if contexts else run_prefix(model, starts)
        self._model, self._layer, self._rows, self._prefix = model, layer, rows, prefix
        self._reads = read_index(rows, [-row.edited_at for row in rows], model.device)
        with torch.no_grad():
            self._record_edited_block(tails)
            self._record_blocks_above(tails)

    def kept(self, rows: Sequence[int]) -> TailForward:
        """The same for some of the rows; their prefix is not computed again."""
        prefix = self._prefix.rows(torch.tensor(rows, device=self._model.device))
        return TailForward(self._model, self._layer, [self._rows[row] for row in rows], prefix=prefix)

    def _record_edited_block(self, tails: Sequence[Sequence[int]]) -> None:
        """The edited block's call with the subject's last token alone; key and value there."""
        seen: list[Tensor] = []
        with watched(self._model.down_projection(self._layer), lambda key, value: seen.extend((key, value))):
            self._edited, _ = self._record([tail[:1] for tail in tails], range(self._layer, self._layer + 1))
        self.keys, self.values = (state.reshape(len(tails), -1) for state in seen)

    def _record_blocks_above(self, tails: Sequence[Sequence[int]]) -> None:
        """The calls of the blocks above with the whole tails, and the clean states that go in and come out."""
        self._above, self._clean_final = self._record(tails, range(self._layer + 1, len(self._model.blocks)))
        self._clean_later = self._above.start[:, 1:]

    def _record(self, tails: Sequence[Sequence[int]], layers: range) -> tuple[RecordedBlocks, Tensor]:
        batch = right_pad(tails, self._model.device)
        return RecordedBlocks.record(self._model, batch, layers, prefix=self._prefix)

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Logits [reads, vocabulary] wherever the loss reads them, with ``change`` [rows, d] (None: the clean model).

        Read are, row after row: each position that predicts a target token; for a row without target, the subject's
        last token.
        """
        with quick_backward(self._clean_final):
            hidden = self._clean_final if change is None else self._changed(change)
        return self._model.logits(hidden[beside(self._reads, hidden)])

    def _changed(self, change: Tensor) -> Tensor:
        """The last block's output [rows, tail, d] under ``change`` [rows, d]."""
        module = self._model.down_projection(self._layer)
        with added(module, lambda output: output + change.to(output).reshape(output.shape)):
            first = self._edited.run(self._edited.start)
        hidden = torch.cat([first, self._clean_later.to(first.device)], 1)
        with run_at_positions(self._model.mlp(len(self._model.blocks) - 1), self._reads):
            return self._above.run(hidden)


def tail(row: Prompt) -> Sequence[int]:
    """The tokens that a change can reach and the loss reads: from the subject's last one to the last that predicts."""
    return row.ids[row.edited_at : read_positions(row)[-1] + 1]


def right_pad(rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
    """Tails as a batch: all begin at the subject's last token, so that a column is a distance from it."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return Batch(ids=ids, mask=mask, positions=torch.arange(width, device=device).expand(len(rows), -1))
