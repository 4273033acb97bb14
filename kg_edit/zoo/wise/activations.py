"""How much a side memory would change texts: WISE's activations, and the margins that training puts on them.

    a(x) = mean over the tokens so far of |D x|                                                        (Eq. 2)
    margins = [a_i - alpha]+ + [beta - a_e]+ + [gamma - (a_e - a_i)]+                                  (Eq. 5)

x [d_ff] is the down-projection's input at a token. It does not depend on D, so it is read once for a whole training,
and the margins need no further pass of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kg_edit.methods.fine_tuning.rows import TrainingRow


class Activations(NamedTuple):
    """``edited``: the least a_e of each of the edit's rows, [rows]; ``unrelated``: a_i at each unrelated token."""

    edited: Tensor
    unrelated: Tensor


class TrainedTexts:
    """The texts whose activations the margins compare, by the down-projection's inputs, [tokens, d_ff] for each text.

    Args:
        rows: the edit's prompt with its target, in several contexts.
        row_inputs: of each of these rows.
        unrelated: of each text that no edit is about.
    """

    def __init__(self, rows: Sequence[TrainingRow], row_inputs: Sequence[Tensor], unrelated: Sequence[Tensor]) -> None:
        texts = [*row_inputs, *unrelated]
        self._inputs = torch.cat(texts)  # [tokens of all texts, d_ff]
        self._lengths = [len(text) for text in texts]
        self._target_positions = list[Tensor]()  # of each row, where a token of the target is predicted
        for row in rows:
            positions = [position for position, _ in row.targets]
            self._target_positions.append(torch.tensor(positions, device=self._inputs.device))

    def activations(self, change: Tensor) -> Activations:
        """Return the activations with the change D [d, d_ff]; an edit's row counts where its target is predicted."""
        norms = (self._inputs @ change.T).norm(dim=-1)  # |D x|, [tokens of all texts]
        means = [running_means(text) for text in norms.split(self._lengths)]
        rows = len(self._target_positions)
        edited = list[Tensor]()
        for mean, positions in zip(means[:rows], self._target_positions, strict=True):
            edited.append(mean[positions].min())
        return Activations(edited=torch.stack(edited), unrelated=torch.cat(means[rows:]))


def running_means(values: Tensor) -> Tensor:
    """Return at each token the mean of ``values`` [tokens] up to it."""
    return values.cumsum(0) / torch.arange(1, len(values) + 1, device=values.device)


def margin_loss(activations: Activations, alpha: float, beta: float, gamma: float) -> Tensor:
    """Return the three margins of Eq. 5, each as the mean of what is over it (as in the published program).

    Args:
        activations: a_e [rows] and a_i [tokens].
        alpha: the largest a_i without loss.
        beta: the least a_e without loss.
        gamma: the least a_e - a_i without loss.
    """
    edited, unrelated = activations
    differences = edited[:, None] - unrelated  # a_e - a_i, [rows, tokens]
    faults = (unrelated - alpha, beta - edited, gamma - differences)
    # What is over a margin is counted instead of selected: a selection would have to wait for its size from the device.
    means = [fault.relu().sum() / (fault > 0).sum().clamp(min=1) for fault in faults]
    return torch.stack(means).sum()
