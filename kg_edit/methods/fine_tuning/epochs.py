"""Adam on many rows in mini-batches over epochs, for methods that train all edits of a call together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_common.progress import Bar
from kg_edit.callbacks import report_losses
from kg_edit.methods.fine_tuning.descent import AdamDescent, check_loss, take_step
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.language_model import LanguageModel


def train_epochs(
    model: LanguageModel,
    rows: Sequence[TrainingRow],
    parameters: Sequence[Tensor],
    descent: AdamDescent,
    *,
    batch_size: int,
    seed: int,
    edits: int,
    name: str,
    layer: int = 0,
    skip_learned: bool = False,
) -> Tensor:
    """Train ``parameters`` on ``rows`` in place; every epoch trains each row once, in an order of its own.

    Args:
        model: the model, in which the parameters have an effect already.
        rows: the training rows; those of the edits come first.
        parameters: leaf tensors.
        descent: ``steps`` is the largest number of epochs; the last one takes no steps. Training ends when the mean
            loss of an epoch is below ``stop_below``.
        batch_size: rows in a step.
        seed: random seed of the order.
        edits: how many of the first rows are those of edits, for the callbacks.
        name: the title of the progress bar.
        layer: the lowest block with one of the parameters.
        skip_learned: whether a batch whose loss is below ``stop_below`` takes no step.

    Returns:
        The loss of each row in each epoch, right before the step of its batch, [rows, epochs].
    """
    optimizer = descent.optimizer(parameters)
    epochs = list[Tensor]()
    for epoch in Bar(range(descent.steps), title=name, unit="epoch", shown=len(rows) > batch_size):
        losses = torch.zeros(len(rows))
        for batch in draw_batches(len(rows), batch_size, seed=seed, epoch=epoch):
            values = RowLosses(model, layer, [rows[index] for index in batch])()  # [batch]
            mean = check_loss(values.mean(), epoch)
            losses[batch] = values.detach().cpu()
            is_last_epoch = epoch == descent.steps - 1
            is_skipped = skip_learned and mean < descent.stop_below
            if not is_last_epoch and not is_skipped:
                take_step(optimizer, values.mean())
        epochs.append(losses)
        report_losses(epoch, dict(enumerate(losses[:edits].tolist())), descents=edits)
        if float(losses.mean()) < descent.stop_below:
            break
    return torch.stack(epochs, 1)


def draw_batches(count: int, size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the indices 0 to ``count`` - 1 in batches of ``size``, in an order that seed and epoch determine."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return [order[start : start + size] for start in range(0, count, size)]
