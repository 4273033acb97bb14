"""The fast forward pass of the objective: it runs only the part of the model that a change can reach.

A change at the subject's last token in layer l affects that token from layer l on, and later tokens from layer l+1 on.
Everything else is computed once: the attention keys and values of the tokens before the subject's last token
(`prefix_cache`), and the states of the later tokens up to layer l+1. A step then runs block l on one token per row, and
the blocks above on the tail tokens only (`RecordedBlocks`). `PlainForward` is the reference: the same logits from the
whole model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.engine.prefix_cache import Prefix, SharedContexts, quick_backward, run_prefix
from kg_edit.engine.replay import RecordedBlocks
from kg_edit.models.hooks import change_output, index_for, is_hooked, record_last_call, run_at_positions
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Batch, Prompt, mark_ends


class TailForward:
    """Runs the tails of rows of prompts, with a change at the subject's last token in block ``layer``.

    A row's tail starts at the subject's last token (`tail`).

    Attributes:
        keys: the input of the down-projection at that token, in the model without the change, [rows, d_ff].
        values: its output there, [rows, d].
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
        """Run the tails once without a change, and record the calls of the blocks.

        Args:
            model: the language model.
            layer: the edited block, 0-based.
            rows: the prompts, with their targets.
            contexts: cached beginnings of rows, shared by many forwards.
            prefix: the cached keys and values of all tokens before the tails; by default it is computed here.
        """
        self._model = model
        self._layer = layer
        self._rows = rows
        self._prefix = _run_starts(model, rows, contexts) if prefix is None else prefix
        to_tail = [-row.edited_at for row in rows]  # a tail's position 0 is the subject's last token
        self._reads = read_index(rows, to_tail, model.device)
        tails = [tail(row) for row in rows]
        with torch.no_grad():
            # Block l: the subject's last token alone, [rows, 1, d]; there the change does not reach the later tokens.
            with record_last_call(model.down_projection(layer)) as call:
                self._edited, _ = self._record([ids[:1] for ids in tails], range(layer, layer + 1))
            self.keys = call.input.reshape(len(tails), -1)  # one token per row
            self.values = call.output.reshape(len(tails), -1)
            # The blocks above: the whole tails, [rows, tail, d]. Their input at the later tokens does not change.
            self._above, self._clean_final = self._record(tails, range(layer + 1, len(model.blocks)))
            self._clean_later = self._above.first_input[:, 1:]  # [rows, tail - 1, d]

    def _record(self, tokens: Sequence[Sequence[int]], layers: range) -> tuple[RecordedBlocks, Tensor]:
        """Run ``tokens`` of each row after its prefix; return the calls of ``layers`` and the last block's output."""
        batch = right_pad(tokens, self._model.device, ends=tail_ends(self._rows))
        return RecordedBlocks.record(self._model, batch, layers, prefix=self._prefix)

    def subset(self, rows: Sequence[int]) -> TailForward:
        """Return the forward of only the rows with these indices; their prefix is reused."""
        prefix = self._prefix.select_rows(torch.tensor(rows, device=self._model.device))
        return type(self)(self._model, self._layer, [self._rows[row] for row in rows], prefix=prefix)

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Return logits [reads, vocabulary] at the positions that the loss reads.

        The positions, row after row: those that predict a target token; for a row without target, the subject's last
        token. ``change`` [rows, d] is added to the down-projection's output at the subject's last token.
        """
        hidden = self._clean_final  # the last block's output, [rows, tail, d]
        if change is not None:
            with quick_backward(hidden):
                hidden = self._run_changed(change)
        return self._model.logits(hidden[index_for(self._reads, hidden)])

    def _run_changed(self, change: Tensor) -> Tensor:
        """Return the last block's output under ``change`` [rows, d], [rows, tail, d]."""

        def add_change(output: Tensor) -> Tensor:
            return output + change.to(output).reshape(output.shape)

        with change_output(self._model.down_projection(self._layer), add_change):
            first = self._edited.run(self._edited.first_input)  # [rows, 1, d]
        hidden = torch.cat([first, self._clean_later.to(first.device)], 1)
        # The last block's MLP runs at the positions that are read only, unless a patch there needs whole rows.
        last_mlp = self._model.mlp(len(self._model.blocks) - 1)
        if last_mlp is not None and is_hooked(last_mlp):
            last_mlp = None
        with run_at_positions(last_mlp, self._reads):
            return self._above.run(hidden)


def _run_starts(model: LanguageModel, rows: Sequence[Prompt], contexts: SharedContexts | None) -> Prefix:
    """Compute the keys and values of all tokens before the tails; with ``contexts``, reuse theirs."""
    starts = [row.ids[: row.edited_at] for row in rows]
    if contexts is None:
        return run_prefix(model, starts)
    longest_tail = max(len(tail(row)) for row in rows)
    return contexts.prefix(model, starts, beyond=longest_tail)


def read_positions(row: Prompt) -> list[int]:
    """Return the positions whose logits the loss reads: those that predict the target, else the subject's end."""
    if row.target_ids:
        return list(range(row.target_start - 1, len(row.ids) - 1))
    return [row.edited_at]


def read_index(rows: Sequence[Prompt], shifts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the (row, position) indices of the logits that the loss reads, with each row's shift on its positions.

    Of two rows that are read at the positions 4, 5 and at 3, with the shifts -4 and -2, as in right-padded tails whose
    subjects end at 4 and 2: [0, 0, 1] and [0, 1, 1].
    """
    row_index = list[int]()
    position_index = list[int]()
    for index, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
        for position in read_positions(row):
            row_index.append(index)
            position_index.append(shift + position)
    return torch.tensor(row_index, device=device), torch.tensor(position_index, device=device)


def tail(row: Prompt) -> Sequence[int]:
    """Return the tail of a row: the tokens from the subject's last one to the last position that the loss reads."""
    return row.ids[row.edited_at : read_positions(row)[-1] + 1]


def tail_ends(rows: Sequence[Prompt]) -> list[int]:
    """Return the column of each row's tail in which its prompt ends.

    In a prompt without target the tail is the subject's last token alone, and the prompt goes on: then the column is
    outside of the tail.
    """
    return [row.target_start - 1 - row.edited_at for row in rows]


def right_pad(rows: Sequence[Sequence[int]], device: torch.device, *, ends: Sequence[int] | None = None) -> Batch:
    """Right-pad tails into a batch. All begin at the subject's last token, so a column is the distance from it.

    ``ends`` has the column in which a row's prompt ends; it may be outside of the tail.
    """
    width = max(len(row) for row in rows)
    padded_ids = []
    masks = []
    for row in rows:
        padding = [0] * (width - len(row))
        padded_ids.append([*row, *padding])
        masks.append([1] * len(row) + padding)
    mask = torch.tensor(masks, device=device)
    marked_ends = None if ends is None else mark_ends(ends, width)
    return Batch(
        ids=torch.tensor(padded_ids, device=device),
        mask=mask,
        positions=mask.cumsum(-1) - 1,  # padding repeats the last one: after a long prefix a further one may not exist
        ends=marked_ends,
    )
