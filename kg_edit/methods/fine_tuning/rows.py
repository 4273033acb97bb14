"""The training rows of fine-tuning, and their losses.

The loss of a row is the mean of -log P over the tokens that it should predict (`row_of`). `RowLosses` runs only the
blocks from the tuned one on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.edits.edit import Edit
from kg_edit.methods.statement import encode_statement
from kg_edit.models.hooks import beside
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import RecordedBlocks

Aim = Literal["target", "text", "prompt_last"]


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A training row: token ids, and pairs (position, token that should be predicted there).

    ``prompt_end`` is the position of the prompt's last token; None for a plain text.
    """

    ids: tuple[int, ...]
    wanted: tuple[tuple[int, int], ...]
    prompt_end: int | None = None


def row_of(prompt: Prompt, aim: Aim, *, end: int | None = None) -> TrainingRow:
    """The training row for a prompt with its target; ``aim`` selects the tokens that are predicted.

    ``target``: each token of the target is predicted from all tokens before it; the prompt is masked. ``text``: every
    token of the prompt is predicted too, as in training on plain text. ``prompt_last``: the prompt's last token alone
    predicts all tokens of the target (the published baselines FT and FT-L). ``end`` is one more token at the end of the
    target; ``prompt_last`` ignores it.
    """
    start = prompt.target_start
    if aim == "prompt_last":
        wanted = tuple((start - 1, token) for token in prompt.target_ids)
        return TrainingRow(ids=prompt.ids[:start], wanted=wanted, prompt_end=start - 1)
    ids = prompt.ids if end is None else (*prompt.ids, end)
    first = start if aim == "target" else 1
    wanted = tuple((at - 1, ids[at]) for at in range(first, len(ids)))
    return TrainingRow(ids=ids[:-1], wanted=wanted, prompt_end=start - 1)


def statement_row(model: LanguageModel, edit: Edit, aim: Aim, *, method: str) -> TrainingRow:
    """The training row of an edit's prompt and target; with the aim ``text`` the row has the whole sentence.

    Raises:
        EditError, PromptError, ChatTemplateError: as `encode_statement`.
    """
    return row_of(encode_statement(model, edit, method=method, whole=aim == "text"), aim)


class RowLosses:
    """Computes the losses of rows, [rows]: the mean of -log P over the wanted tokens of a row.

    Only block ``layer`` and the blocks above may change between calls. So the first call runs the whole model, and
    later calls run only the blocks from ``layer`` on.
    """

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[TrainingRow]) -> None:
        self._model, self._layers = model, range(layer, len(model.blocks))
        ends = [row.prompt_end for row in rows]
        self._batch = left_pad([row.ids for row in rows], device=model.device, ends=ends)
        pads = [self._batch.ids.shape[1] - len(row.ids) for row in rows]
        wanted = [(index, pads[index] + at, token) for index, row in enumerate(rows) for at, token in row.wanted]
        self._owners, self._columns, self._tokens = (torch.tensor(part) for part in zip(*wanted, strict=True))
        self._counts = torch.tensor([len(row.wanted) for row in rows])
        self._recorded: RecordedBlocks | None = None

    def __call__(self) -> Tensor:
        """The losses [rows] in float32, differentiable in the parameters that hooks use."""
        logits = self.logits().float()
        tokens, owners, counts = beside((self._tokens, self._owners, self._counts), logits)
        nll = cross_entropy(logits, tokens, reduction="none")
        return nll.new_zeros(len(counts)).index_add(0, owners, nll) / counts

    def logits(self) -> Tensor:
        """The logits at the positions that predict wanted tokens, row after row, [wanted tokens, vocabulary]."""
        if self._recorded is None:
            self._recorded, hidden = RecordedBlocks.record(self._model, self._batch, self._layers)
        else:
            hidden = self._recorded.run(self._recorded.start)
        return self._model.logits(hidden[beside((self._owners, self._columns), hidden)])


def batches(count: int, size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The indices 0 to ``count`` - 1 in random order, in batches of ``size``; ``seed`` and ``epoch`` fix the order."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return [order[start : start + size] for start in range(0, count, size)]
