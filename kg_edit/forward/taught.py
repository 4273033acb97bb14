"""Rows that learn from a teacher: another prompt's expectations, or another model's, instead of one right token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.forward.row_groups import Forward, Rewrites, Row


class Taught(Rewrites):
    """The mean over a row's target tokens of -sum q log p, where q is the row's lesson (Hinton et al. 2015).

    Its gradient is that of KL(q || p), as q does not change.
    """

    def __init__(self, rows: Sequence[Row], forward: Forward, *, edits: int) -> None:
        super().__init__(rows, forward, edits=edits)
        lessons = [row.taught for row in rows if row.taught is not None]
        self._tokens = torch.cat([lesson.tokens for lesson in lessons])
        self._probabilities = torch.cat([lesson.probabilities for lesson in lessons])

    def loss(self, change: Tensor) -> Tensor:
        """[edits] under ``change`` [edits, d]."""
        found = self._logits(change).float().log_softmax(-1).gather(-1, self._tokens)
        loss = -(self._probabilities * found).sum(-1)
        return self._of_edits(self._row_of_read, loss * self._weights.to(loss.device))
