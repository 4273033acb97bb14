"""Rows of prompts that run together: equally long, so that nothing is padded, and few enough to stay in the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt
from kg_edit.value.tail_forward import tail

_FEWEST, _MOST = 32, 512  # beyond 512 tokens matrices gain nothing and leave the processor's caches


def tokens_within(model: LanguageModel, layer: int, megabytes: float) -> int:
    """How many tokens a pass with gradient may have to stay within ``megabytes`` above the model.

    A token leaves about 10 d + 5 d_ff numbers a block above ``layer`` for the way back, and a vocabulary of logits.
    """
    inner = weight_matrix(model.down_projection(layer)).shape[1]
    vocabulary = model.model.get_output_embeddings().weight.shape[0]
    numbers = (10 * model.width + 5 * inner) * (len(model.blocks) - layer) + vocabulary
    size = torch.finfo(model.model.dtype).bits // 8
    return max(_FEWEST, min(_MOST, int(megabytes * 1e6 / (size * numbers))))


class Forward(Protocol):
    """How logits are computed: `TailForward`, or its oracle `PlainForward`."""

    keys: Tensor
    values: Tensor

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Logits [reads, vocabulary] under ``change`` [rows, d]."""

    def kept(self, rows: Sequence[int]) -> Forward:
        """The same for some of the rows."""


class ForwardFactory(Protocol):
    """Builds a `Forward`."""

    def __call__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt], /) -> Forward:
        """The forward for ``rows`` with the change in ``layer``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """What a teacher expects at each of a row's target tokens: its likeliest ``tokens`` [target tokens, k], and their
    ``probabilities``, which sum to 1 a token."""

    tokens: Tensor
    probabilities: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Further:
    """A row besides an edit's rewrites: its target should become likely, or what a teacher expects there."""

    prompt: Prompt
    weight: float
    taught: Lesson | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt of the edit with the index ``edit``; ``weight``: its share in that edit's loss."""

    edit: int
    prompt: Prompt
    weight: float = 1.0
    taught: Lesson | None = None


def equally_long(rows: Sequence[Row], *, tokens: int, slack: int = 1) -> Iterator[list[Row]]:
    """Groups of rows with equally long tails, of about ``tokens`` tokens; an edit's rows stay in their order.

    With ``slack`` tails of a group differ by less than that, and are padded: more work, in fewer and larger pieces.
    """
    by_length: dict[int, list[Row]] = {}
    for row in rows:
        by_length.setdefault(-(-len(tail(row.prompt)) // slack), []).append(row)
    for _, same in sorted(by_length.items()):
        length = max(len(tail(row.prompt)) for row in same)
        count = -(-len(same) * length // tokens)  # so many groups, of equal size
        size = -(-len(same) // count)
        for start in range(0, len(same), size):
            yield same[start : start + size]


class RowGroup(ABC):
    """Rows and their forward. The loss [edits] of a group is its rows' part in the loss of each edit."""

    def __init__(self, rows: Sequence[Row], forward: Forward, *, edits: int) -> None:
        self.rows, self.forward, self._edits = rows, forward, edits
        self._edit_of_row = torch.tensor([row.edit for row in rows])

    @abstractmethod
    def loss(self, change: Tensor) -> Tensor:
        """[edits] under ``change`` [edits, d]."""

    def without(self, done: set[int]) -> RowGroup | None:
        """The group without the rows of edits that are ``done``, once these are half of it; None if all are."""
        left = [place for place, row in enumerate(self.rows) if row.edit not in done]
        if not left:
            return None
        if 2 * len(left) > len(self.rows):
            return self
        return type(self)([self.rows[place] for place in left], self.forward.kept(left), edits=self._edits)

    def _logits(self, change: Tensor) -> Tensor:
        return self.forward.logits(change[self._edit_of_row.to(change.device)])

    def _of_edits(self, rows: Tensor, values: Tensor) -> Tensor:
        """Sum ``values`` by the edits of the ``rows`` that they belong to."""
        edit = self._edit_of_row[rows].to(values.device)
        return values.new_zeros(self._edits).index_add(0, edit, values)


class Rewrites(RowGroup):
    """L_p: the mean over an edit's rows of the mean over a row's target tokens of -log p."""

    def __init__(self, rows: Sequence[Row], forward: Forward, *, edits: int) -> None:
        super().__init__(rows, forward, edits=edits)
        sizes = torch.tensor([len(row.prompt.target_ids) for row in rows])
        self._row_of_read = torch.repeat_interleave(torch.arange(len(rows)), sizes)
        self._targets = torch.tensor([token for row in rows for token in row.prompt.target_ids])
        weights = torch.tensor([row.weight for row in rows]) / sizes
        self._weights = weights[self._row_of_read]

    def loss(self, change: Tensor) -> Tensor:
        """[edits] under ``change`` [edits, d]."""
        logits = self._logits(change).float()
        nll = torch.nn.functional.cross_entropy(logits, self._targets.to(logits.device), reduction="none")
        return self._of_edits(self._row_of_read, nll * self._weights.to(nll.device))


class Essences(RowGroup):
    """L_a: KL(edited || unedited) of the next-token distribution at the subject's last token."""

    def __init__(self, rows: Sequence[Row], forward: Forward, *, edits: int) -> None:
        super().__init__(rows, forward, edits=edits)
        with torch.no_grad():
            self._clean = forward.logits().float().log_softmax(-1)

    def loss(self, change: Tensor) -> Tensor:
        """[edits] under ``change`` [edits, d]."""
        edited = self._logits(change).float().log_softmax(-1)
        kl = (edited.exp() * (edited - self._clean)).sum(-1)
        return self._of_edits(torch.arange(len(kl)), kl)
