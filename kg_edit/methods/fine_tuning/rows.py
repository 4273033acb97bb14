"""The training rows of fine-tuning, and their losses: the mean of -log P over the tokens that a row should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.engine.replay import RecordedBlocks
from kg_edit.models.hooks import index_for
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad

Aim = Literal["target", "text", "prompt_last"]


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A training row: the token ids that the model reads, and pairs (position, token that should be predicted there).

    ``prompt_end`` is the position of the prompt's last token, at which some patches act; None for a plain text.
    ``acting_at`` is the only position at which the trained change acts; with None it acts at all positions.
    """

    ids: tuple[int, ...]
    targets: tuple[tuple[int, int], ...]
    prompt_end: int | None = None
    acting_at: int | None = None


def row_of(prompt: Prompt, aim: Aim, *, end: int | None = None) -> TrainingRow:
    """Return the training row of a prompt with its target.

    Args:
        prompt: the encoded prompt.
        aim: which tokens are predicted. ``target``: each token of the target from all tokens before it; the prompt is
            masked. ``text``: every token of the prompt too, as in training on plain text. ``prompt_last``: the
            prompt's last token alone predicts all tokens of the target (the published baselines FT and FT-L).
        end: one more token at the end of the target; ``prompt_last`` ignores it.
    """
    start = prompt.target_start
    if aim == "prompt_last":
        targets = tuple((start - 1, token) for token in prompt.target_ids)
        return TrainingRow(ids=prompt.ids[:start], targets=targets, prompt_end=start - 1)
    ids = prompt.ids
    if end is not None:
        ids = (*ids, end)
    first = 1  # the first token that is predicted
    if aim == "target":
        first = start
    targets = tuple((position - 1, ids[position]) for position in range(first, len(ids)))
    # The last token is only predicted: the model does not read it.
    return TrainingRow(ids=ids[:-1], targets=targets, prompt_end=start - 1)


class RowLosses:
    """Computes the losses of rows, [rows]: the mean of -log P over the target tokens of a row.

    Only block ``layer`` and the blocks above may change between calls. So the first call runs the whole model, and
    later calls run only the blocks from ``layer`` on.
    """

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[TrainingRow]) -> None:
        self._model = model
        self._layers = range(layer, len(model.blocks))
        ends = [row.prompt_end for row in rows]
        self._batch = left_pad([row.ids for row in rows], device=model.device, ends=ends)
        pads = [self._batch.ids.shape[1] - len(row.ids) for row in rows]
        # For each target token: its row, its position in the padded row, and the token itself; [targets] each.
        owners = list[int]()
        columns = list[int]()
        tokens = list[int]()
        self._acting_at = list[int | None]()
        for index, (row, pad) in enumerate(zip(rows, pads, strict=True)):
            for position, token in row.targets:
                owners.append(index)
                columns.append(pad + position)
                tokens.append(token)
            acting_at = None
            if row.acting_at is not None:
                acting_at = pad + row.acting_at
            self._acting_at.append(acting_at)
        self._owners = torch.tensor(owners)
        self._columns = torch.tensor(columns)
        self._tokens = torch.tensor(tokens)
        self._counts = torch.tensor([len(row.targets) for row in rows])
        self._recorded: RecordedBlocks | None = None

    def __call__(self) -> Tensor:
        """Return the losses [rows] in float32, differentiable in the parameters that hooks use."""
        logits = self.logits().float()
        tokens, owners, counts = index_for((self._tokens, self._owners, self._counts), logits)
        nll = cross_entropy(logits, tokens, reduction="none")  # [targets]
        return nll.new_zeros(len(counts)).index_add(0, owners, nll) / counts  # the mean over each row's targets

    @property
    def acting(self) -> Tensor | None:
        """1 at the tokens at which the change acts, [rows, tokens] as padded; None: it acts at all of them."""
        if all(position is None for position in self._acting_at):
            return None
        acting = torch.ones(self._batch.ids.shape)
        for row, position in enumerate(self._acting_at):
            if position is not None:
                acting[row] = 0.0
                acting[row, position] = 1.0
        return acting

    def logits(self) -> Tensor:
        """Return the logits at the positions that predict target tokens, row after row, [targets, vocabulary].

        The first call runs the whole model, and records what reaches the first of the blocks that later calls run.
        """
        if self._recorded is None:
            self._recorded, hidden = RecordedBlocks.record(self._model, self._batch, self._layers)
        else:
            hidden = self._recorded.run(self._recorded.first_input)
        return self._model.logits(hidden[index_for((self._owners, self._columns), hidden)])
