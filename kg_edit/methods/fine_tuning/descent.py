"""Adam on changes of weights: one descent, or those of several edits in the same passes of the model.

A change D [d, d_ff] of a weight W is trained without writing W: `add_changes` adds D x to the module's output.
`AdamDescent.run` trains any parameters on any loss. `descend_edits` trains one change of the same weight for each of
several edits:

    y_r = W x_r + D_e(r) x_r        x [rows, tokens, d_ff], D [edits, d, d_ff], y [rows, tokens, d]

A pass over a few tokens takes as long as reading the weights does, so the passes of sixteen edits take little longer
than those of one. The edits do not affect each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kg_edit.callbacks import report_losses
from kg_edit.errors import PatchError
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.language_model import LanguageModel, weight_matrix


def new_change(module: nn.Module) -> Tensor:
    """Return the change of a projection's weight before training: zeros [out, in] in float32, a leaf tensor."""
    weight = weight_matrix(module)
    return torch.zeros(weight.shape, device=weight.device, requires_grad=True)


@contextmanager
def add_changes(
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
        inputs = args[0]  # [rows, tokens, in]; OPT has rows and tokens in one: [rows * tokens, in]
        if counts is None:
            sizes = [len(inputs)]  # one change for all rows; in OPT each token is a row here
        else:
            sizes = list(counts)
        rows = inputs.to(changes[0]).reshape(sum(sizes), -1, inputs.shape[-1])  # [rows, tokens, in]
        addends = []
        for x, change in zip(rows.split(sizes), changes, strict=True):  # x [rows of the edit, tokens, in]
            addends.append(linear(x, round_change(module, change)))  # D x, [rows of the edit, tokens, out]
        addend = torch.cat(addends)  # [rows, tokens, out]
        if acting is not None:
            addend = addend * acting.to(addend).reshape(*addend.shape[:-1], 1)  # [rows, tokens, 1]
        return output + addend.reshape(output.shape).to(output)

    with module.register_forward_hook(add, prepend=True):  # first: hooks of patches read the changed output
        yield


def round_change(module: nn.Module, change: Tensor) -> Tensor:
    """Return what remains of a change [out, in] after the sum W + D is rounded to the weight's precision.

    That is round(W + D) - W, with the gradient of D: it ignores the rounding (straight-through).
    """
    weight = weight_matrix(module)
    if weight.dtype == torch.float32:
        return change
    unrounded = weight.float() + change.detach()  # W + D
    return change + (unrounded.to(weight.dtype).float() - unrounded)


@dataclass(frozen=True, kw_only=True)
class AdamDescent:
    """Settings of a descent by Adam.

    Attributes:
        steps: the largest number of evaluations of the loss.
        learning_rate: Adam's.
        stop_below: the descent ends when the loss is below this.
        weight_decay: so many times the parameter is added to its gradient, an L2 penalty. AdamW's decay is another one.
        clip: the largest norm of the gradient; None: any. `descend_edits` takes none.
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
            losses.append(check_loss(value, step))
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


def check_loss(loss: Tensor, step: int) -> float:
    """Return the loss as a float; raise PatchError if it does not depend on what is trained, or is not finite.

    ``step`` is for the message.
    """
    if not loss.requires_grad:
        raise PatchError(
            "what is trained has no effect on the model's answer, because an earlier patch replaces the output of this "
            "layer; choose another layer, or leave that patch out"
        )
    value = float(loss.detach())  # waits for the device
    if not math.isfinite(value):
        raise PatchError(f"the loss is {value} at step {step}; lower the learning rate, or load the model in float32")
    return value


@dataclass(frozen=True, eq=False, kw_only=True)
class EditDescent:
    """The descent of one edit.

    Attributes:
        rows: the edit's training rows, whose ``acting_at`` is None; its loss is their mean.
        change: D of the edit, [d, d_ff], a leaf tensor that is trained in place.
        penalty: is added to the loss, but neither returned nor compared with ``stop_below``.
        constrain: is called after each step.
    """

    rows: Sequence[TrainingRow]
    change: Tensor
    penalty: Callable[[], Tensor] | None = None
    constrain: Callable[[], None] = lambda: None


@dataclass(frozen=True, eq=False, kw_only=True)
class DescentResult:
    """What the descent of one edit found.

    Attributes:
        change: the trained D, [d, d_ff].
        losses: the loss of each evaluation. No step follows the last one, so it is the loss of ``change``.
        error: says that a loss was not finite, which ended the descent; None: all were.
    """

    change: Tensor
    losses: Sequence[float]
    error: PatchError | None


def descend_edits(
    model: LanguageModel, layer: int, edits: Sequence[EditDescent], settings: AdamDescent
) -> list[DescentResult]:
    """Train the changes of all ``edits`` in place, and return the result of each.

    An edit has at most ``settings.steps`` evaluations, and stops by its own loss. A loss that is not finite ends only
    the descent of its edit. Of four edits, numbers 0 to 3, a step may go like this:

        in the passes   0 1 2 3     their rows are run
        running         0 1 2       edit 3 has finished before, and its loss is not looked at
        finite          0 1         the loss of edit 2 is not finite: its descent ends with an error
        running         0           the loss of edit 1 is below ``stop_below``; only edit 0 takes a step
    """
    assert settings.clip is None  # noqa: S101 - one norm of all changes would let an edit shorten another's step
    optimizer = settings.optimizer([edit.change for edit in edits])
    histories = [list[float]() for _ in edits]  # the losses of each edit so far
    errors = dict[int, PatchError]()  # by the edit's number
    running = list(range(len(edits)))  # the numbers of the edits that still descend
    passes = _Passes(model, layer, edits, running)
    for step in range(settings.steps):
        # The rows of finished edits stay in the passes, without effect, until half of the edits are finished: new
        # passes run the whole model once, which costs more than a few idle rows.
        if 2 * len(running) <= len(passes.numbers):
            passes = _Passes(model, layer, edits, running)
        losses = passes.compute_losses()
        running_losses = {number: losses[number] for number in running}
        finite_losses, failures = _check_losses(running_losses, step)
        errors |= failures
        for number, value in finite_losses.items():
            histories[number].append(value)
        report_losses(step, finite_losses, descents=len(edits))

        running = [number for number, value in finite_losses.items() if value >= settings.stop_below]
        if not running or step == settings.steps - 1:
            break
        finished = set(passes.numbers).difference(running)
        _take_joint_step(optimizer, edits, {number: losses[number] for number in running}, finished)

    results = []
    for number, edit in enumerate(edits):
        results.append(DescentResult(change=edit.change.detach(), losses=histories[number], error=errors.get(number)))
    return results


def _check_losses(losses: Mapping[int, Tensor], step: int) -> tuple[dict[int, float], dict[int, PatchError]]:
    """Return the finite ones of ``losses`` as floats, and the errors of the others (`check_loss`), both by number."""
    values = dict[int, float]()
    errors = dict[int, PatchError]()
    for number, loss in losses.items():
        try:
            values[number] = check_loss(loss, step)
        except PatchError as error:
            errors[number] = error
    return values, errors


def _take_joint_step(
    optimizer: torch.optim.Optimizer,
    edits: Sequence[EditDescent],
    losses: Mapping[int, Tensor],
    finished: Collection[int],
) -> None:
    """Take one step on the changes of the running edits, whose ``losses`` are by number; the ``finished`` ones stay."""
    optimizer.zero_grad()
    _run_backward(edits, losses)
    for number in finished:
        # Its rows are still in the passes, but not in the sum of the losses: its gradient is None or 0. Adam's momentum
        # would still move the change at a gradient of 0, but leaves a parameter without a gradient as it is.
        edits[number].change.grad = None
    optimizer.step()
    for number in losses:
        edits[number].constrain()


def _run_backward(edits: Sequence[EditDescent], losses: Mapping[int, Tensor]) -> None:
    """Compute the gradients of the changes in one backward pass; ``losses`` has those of the running edits, by number.

    The changes are independent, so the gradient of the sum of the losses is each edit's own.
    """
    totals = []
    for number, loss in losses.items():
        penalty = edits[number].penalty
        total = loss
        if penalty is not None:
            total = loss + penalty()
        totals.append(total)
    torch.stack(totals).sum().backward()


class _Passes:
    """The rows of some edits in the same passes of the model; ``numbers`` says which of ``edits`` they are."""

    def __init__(self, model: LanguageModel, layer: int, edits: Sequence[EditDescent], numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)
        self._module = model.down_projection(layer)
        self._changes = [edits[number].change for number in numbers]
        self._counts = [len(edits[number].rows) for number in numbers]  # how many rows each edit has
        rows = list[TrainingRow]()
        for number in numbers:
            rows += edits[number].rows
        self._row_losses = RowLosses(model, layer, rows)

    def compute_losses(self) -> dict[int, Tensor]:
        """Return the loss of each edit's present change by its number: the mean over its rows."""
        with add_changes(self._module, self._changes, self._counts):
            means = [part.mean() for part in self._row_losses().split(self._counts)]
        losses = torch.stack(means).cpu()  # one wait for the device, not one for each edit
        return dict(zip(self.numbers, losses, strict=True))
