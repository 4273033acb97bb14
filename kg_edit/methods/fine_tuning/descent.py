"""Adam on changes of weights: one descent, or those of several edits in the same passes of the model.

A change D [d, d_ff] of a weight W is trained without writing W: `changed` adds D x to the module's output.
`Descent.run` trains any parameters on any loss. `descend` trains one change of the same weight for each of several
edits:

    y_r = W x_r + D_e(r) x_r        x [rows, tokens, d_ff], D [edits, d, d_ff], y [rows, tokens, d]

A pass over a few tokens takes as long as reading the weights does, so the passes of sixteen edits take little longer
than those of one. The edits do not affect each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kg_edit.callbacks import report_losses
from kg_edit.errors import PatchError
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.language_model import LanguageModel, weight_matrix


def no_change(module: nn.Module) -> Tensor:
    """Return the change of a projection's weight before training: zeros [out, in] in float32, a leaf tensor."""
    weight = weight_matrix(module)
    return torch.zeros(weight.shape, device=weight.device, requires_grad=True)


@contextmanager
def changed(
    module: nn.Module, changes: Sequence[Tensor], counts: Sequence[int] | None = None, *, acting: Tensor | None = None
) -> Iterator[None]:
    """Within the ``with`` block, add the changes' output to that of ``module``, as if they were in its weight.

    Args:
        module: a projection with the weight [out, in].
        changes: D of each edit, [out, in].
        counts: how many of a pass's rows belong to each edit; None: there is one change, for all rows.
        acting: 1 at the tokens at which the changes act, 0 at the others, [rows, tokens]; None: they act at all.
    """

    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        inputs = args[0]
        sizes = [len(inputs)]
        if counts is not None:
            sizes = list(counts)
        rows = inputs.to(changes[0]).reshape(sum(sizes), -1, inputs.shape[-1])  # OPT has rows and tokens in one
        parts = []
        for x, change in zip(rows.split(sizes), changes, strict=True):
            parts.append(linear(x, round_change(module, change)))  # D x, [rows of the edit, tokens, out]
        added = torch.cat(parts)  # [rows, tokens, out]
        if acting is not None:
            added = added * acting.to(added).reshape(*added.shape[:-1], 1)
        return output + added.reshape(output.shape).to(output)

    with module.register_forward_hook(add, prepend=True):  # first: hooks of patches read the changed output
        yield


def round_change(module: nn.Module, change: Tensor) -> Tensor:
    """Return what remains of a change [out, in] after the sum W + D is rounded to the weight's precision.

    The gradient ignores the rounding (straight-through).
    """
    weight = weight_matrix(module)
    if weight.dtype == torch.float32:
        return change
    exact = weight.float() + change.detach()
    return change + (exact.to(weight.dtype).float() - exact)


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Settings of a descent by Adam.

    Attributes:
        steps: the largest number of evaluations of the loss.
        learning_rate: Adam's.
        stop_below: the descent ends when the loss is below this.
        weight_decay: is added to the gradient as in Adam's paper.
        clip: the largest norm of the gradient.
    """

    steps: int
    learning_rate: float
    stop_below: float
    weight_decay: float = 0.0
    clip: float | None = None

    def optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return Adam for these parameters; one without a gradient stays as it is."""
        return torch.optim.Adam(list(parameters), lr=self.learning_rate, weight_decay=self.weight_decay)

    def run(
        self,
        parameters: Sequence[Tensor],
        loss: Callable[[], Tensor],
        *,
        penalty: Callable[[], Tensor] | None = None,
        constrain: Callable[[], None] = lambda: None,
    ) -> list[float]:
        """Train ``parameters`` in place.

        Args:
            parameters: leaf tensors.
            loss: computes the loss of the present parameters.
            penalty: is added to the loss, but neither returned nor compared with ``stop_below``.
            constrain: is called after each step.

        Returns:
            The loss of each evaluation. No step follows the last one, so the loss of the final parameters is known.
        """
        optimizer = self.optimizer(parameters)
        losses: list[float] = []
        for step in range(self.steps):
            value = loss()
            losses.append(checked_loss(value, step))
            report_losses(step, {0: losses[-1]})
            if losses[-1] < self.stop_below or step == self.steps - 1:
                break
            if penalty is not None:
                value = value + penalty()
            take_step(optimizer, value, clip=self.clip)
            constrain()
        return losses


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    """Take one step of the optimiser along the negative gradient of ``loss``, its norm at most ``clip``."""
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        tensors = list[Tensor]()
        for group in optimizer.param_groups:
            tensors += group["params"]
        torch.nn.utils.clip_grad_norm_(tensors, clip)
    optimizer.step()


def checked_loss(loss: Tensor, step: int) -> float:
    """Return the loss as a float."""
    if not loss.requires_grad:
        raise PatchError(
            "what is trained has no effect on the model's answer, because an earlier patch replaces the output of this "
            "layer; choose another layer, or leave that patch out"
        )
    value = float(loss.detach())  # waits for the device
    if not math.isfinite(value):
        raise PatchError(f"the loss is {value} at step {step}; lower the learning rate, or load the model in float32")
    return value


@dataclass(eq=False, kw_only=True)
class OwnDescent:
    """The descent of one edit.

    Attributes:
        rows: the edit's training rows; its loss is their mean.
        change: D of the edit, [d, d_ff], a leaf tensor that is trained in place.
        penalty: is added to the loss, but not to ``losses``.
        constrain: is called after each step.
        losses: the loss of each evaluation so far.
        error: a loss was not finite.
    """

    rows: Sequence[TrainingRow]
    change: Tensor
    penalty: Callable[[], Tensor] | None = None
    constrain: Callable[[], None] = lambda: None
    losses: list[float] = field(default_factory=list)
    error: PatchError | None = None


def descend(model: LanguageModel, layer: int, edits: Sequence[OwnDescent], settings: Descent) -> None:
    """Train the changes of all ``edits`` in place, at most ``settings.steps`` evaluations each.

    Each edit stops by its own loss. A loss that is not finite ends only the descent of its edit, whose ``error`` says
    so. No step follows an edit's last evaluation, so the loss of its final change is known.
    """
    optimizer = settings.optimizer([edit.change for edit in edits])
    indices = {edit: index for index, edit in enumerate(edits)}
    running = list(edits)  # the edits that still descend
    passes: _Passes | None = None
    for step in range(settings.steps):
        # The rows of finished edits leave the passes when half of them are done: a new start runs the lower blocks.
        if passes is None or 2 * len(running) <= len(passes.edits):
            passes = _Passes(model, layer, running)
        losses = passes.compute_losses()
        unfinished = _note_losses(running, losses, step, stop_below=settings.stop_below)
        finite = {indices[edit]: edit.losses[-1] for edit in running if not edit.error}
        report_losses(step, finite, of=len(edits))
        running = unfinished
        if not running or step == settings.steps - 1:
            return

        optimizer.zero_grad()
        _run_backward(running, losses)
        for edit in passes.edits:
            if edit not in running:
                edit.change.grad = None  # at a gradient of 0, Adam's momentum would still move a finished edit's change
        optimizer.step()
        for edit in running:
            edit.constrain()


def _run_backward(running: Sequence[OwnDescent], losses: Mapping[OwnDescent, Tensor]) -> None:
    """Compute the gradients of all changes in one backward pass.

    The changes are independent, so the gradient of the sum of the losses is each edit's own.
    """
    totals = []
    for edit in running:
        total = losses[edit]
        if edit.penalty is not None:
            total = total + edit.penalty()
        totals.append(total)
    torch.stack(totals).sum().backward()


class _Passes:
    """The rows of some edits in the same passes of the model."""

    def __init__(self, model: LanguageModel, layer: int, edits: Sequence[OwnDescent]) -> None:
        rows = list[TrainingRow]()
        for edit in edits:
            rows += edit.rows
        self.edits = list(edits)
        self._module = model.down_projection(layer)
        self._row_losses = RowLosses(model, layer, rows)
        self._counts = [len(edit.rows) for edit in edits]

    def compute_losses(self) -> dict[OwnDescent, Tensor]:
        """Return the loss of each edit's present change, the mean over its rows."""
        with changed(self._module, [edit.change for edit in self.edits], self._counts):
            means = [part.mean() for part in self._row_losses().split(self._counts)]
        losses = torch.stack(means).cpu()  # one wait for the device, not one for each edit
        return dict(zip(self.edits, losses, strict=True))


def _note_losses(
    running: Sequence[OwnDescent], losses: Mapping[OwnDescent, Tensor], step: int, *, stop_below: float
) -> list[OwnDescent]:
    """Note the loss of each edit, or its error, and return the edits that descend further."""
    unfinished = []
    for edit in running:
        try:
            edit.losses.append(checked_loss(losses[edit], step))
        except PatchError as error:
            edit.error = error
            continue
        if edit.losses[-1] >= stop_below:
            unfinished.append(edit)
    return unfinished
