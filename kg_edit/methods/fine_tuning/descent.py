"""Adam on changes of weights: one descent, and those of several edits in the same passes of the model.

- `WeightChange`: a trainable change D [d, d_ff] beside a weight W; the model computes W x + D x, and W is not written.
- `Descent`: Adam on any parameters and any loss.
- `descend`: the descents of several edits, each with a change of its own of the same weight:

    y_r = W x_r + D_e(r) x_r        x [rows, tokens, d_ff], D [edits, d, d_ff], y [rows, tokens, d]

  A pass over a few tokens takes as long as reading the weights does, so the passes of sixteen edits take little longer
  than those of one. The edits do not affect each other: each stops by its own loss, and a loss that is not finite ends
  its edit only. When half of the edits are done, their rows are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


class WeightChange:
    """A trainable change [out, in] of a projection's weight, in float32; ``change`` is a leaf tensor that starts at 0.

    In half precision the model uses the change that remains after the weight is rounded. The gradient ignores the
    rounding (straight-through).
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self.change = module, no_change(module)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the ``with`` block, the module's output is y + change x, as if it were in the weight: before hooks."""

        def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + linear(args[0].to(self.change), felt(self._module, self.change)).to(output)

        handle = self._module.register_forward_hook(add, prepend=True)
        try:
            yield
        finally:
            handle.remove()


def no_change(module: nn.Module) -> Tensor:
    """The change of a projection's weight before training: zeros [out, in] in float32, a leaf tensor."""
    weight = weight_matrix(module)
    return torch.zeros(weight.shape, device=weight.device, requires_grad=True)


def felt(module: nn.Module, change: Tensor) -> Tensor:
    """The change [..., out, in] as the model feels it: in half precision, what remains after the weight is rounded."""
    weight = weight_matrix(module)
    if weight.dtype == torch.float32:
        return change
    exact = weight.float() + change.detach()
    return change + (exact.to(weight.dtype).float() - exact)


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Settings of a descent by Adam: at most ``steps`` evaluations; it stops when the loss is below ``stop_below``.

    ``weight_decay`` is added to the gradient as in Adam's paper; ``clip`` is the largest norm of the gradient.
    """

    steps: int
    learning_rate: float
    stop_below: float
    weight_decay: float = 0.0
    clip: float | None = None

    def optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Adam for these parameters; one without a gradient stays as it is."""
        return torch.optim.Adam(list(parameters), lr=self.learning_rate, weight_decay=self.weight_decay)

    def run(
        self,
        parameters: Sequence[Tensor],
        loss: Callable[[], Tensor],
        *,
        penalty: Callable[[], Tensor] | None = None,
        constrain: Callable[[], None] = lambda: None,
    ) -> list[float]:
        """Train ``parameters`` in place; return the loss of each evaluation, without ``penalty``.

        No step follows the last evaluation, so the loss of the final parameters is known. ``constrain`` is called after
        each step.

        Raises:
            PatchError: a loss is not finite.
        """
        optimizer = self.optimizer(parameters)
        losses: list[float] = []
        for step in range(self.steps):
            found = loss()
            losses.append(checked_loss(found, step))
            report_losses(step, {0: losses[-1]})
            if losses[-1] < self.stop_below or step == self.steps - 1:
                break
            take_step(optimizer, found if penalty is None else found + penalty(), clip=self.clip)
            constrain()
        return losses


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    """Take one step of the optimiser along the negative gradient of ``loss``, its norm at most ``clip``."""
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], clip)
    optimizer.step()


def checked_loss(loss: Tensor, step: int) -> float:
    """The loss as a float.

    Raises:
        PatchError: the loss is not finite, or what is trained has no effect on it.
    """
    if not loss.requires_grad:
        raise PatchError(
            "what is trained has no effect on the model's answer, because an earlier patch replaces the output of this "
            "layer; choose another layer, or leave that patch out"
        )
    found = float(loss.detach())
    if not torch.isfinite(loss.detach()).all():
        raise PatchError(f"the loss is {found} at step {step}; lower the learning rate, or load the model in float32")
    return found


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

    def goes_on(self, loss: Tensor, *, step: int, below: float) -> bool:
        """Note the loss of a step; whether the edit takes another step."""
        try:
            self.losses.append(checked_loss(loss, step))
        except PatchError as error:
            self.error = error
            return False
        return self.losses[-1] >= below

    def whole(self, loss: Tensor) -> Tensor:
        """The loss with the penalty."""
        return loss if self.penalty is None else loss + self.penalty()


class _Pass:
    """The losses of some edits, [edits], from one pass over all their rows."""

    def __init__(self, model: LanguageModel, layer: int, edits: Sequence[OwnDescent]) -> None:
        self.edits = edits
        self._module = model.down_projection(layer)
        self._rows = RowLosses(model, layer, [row for edit in edits for row in edit.rows])
        self._counts = [len(edit.rows) for edit in edits]

    def losses(self) -> Tensor:
        """The loss of each edit, [edits], differentiable in the changes."""
        with _added(self._module, [edit.change for edit in self.edits], self._counts):
            found = self._rows()
        return torch.stack([own.mean() for own in found.split(self._counts)])


@contextmanager
def _added(module: nn.Module, changes: Sequence[Tensor], counts: Sequence[int]) -> Iterator[None]:
    """Within the ``with`` block, the output for row r is y_r + D_e(r) x_r; ``counts`` [edits] are the edits' rows."""
    weights = [felt(module, change) for change in changes]

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = args[0].to(weights[0]).reshape(sum(counts), -1, args[0].shape[-1])  # OPT has rows and tokens in one
        moved = [linear(own, weight) for own, weight in zip(rows.split(list(counts)), weights, strict=True)]
        return output + torch.cat(moved).reshape(output.shape).to(output)

    handle = module.register_forward_hook(add, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def descend(model: LanguageModel, layer: int, edits: Sequence[OwnDescent], settings: Descent) -> None:
    """Train the changes of all ``edits`` in place, at most ``settings.steps`` evaluations each.

    No step follows an edit's last evaluation, so the loss of its final change is known.
    """
    optimizer = settings.optimizer([edit.change for edit in edits])
    place = {edit: index for index, edit in enumerate(edits)}
    running, current = list(edits), _Pass(model, layer, edits)
    for step in range(settings.steps):
        if 2 * len(running) <= len(current.edits):
            current = _Pass(model, layer, running)
        found = dict(zip(current.edits, current.losses(), strict=True))
        on = [edit for edit in running if edit.goes_on(found[edit], step=step, below=settings.stop_below)]
        report_losses(step, {place[edit]: edit.losses[-1] for edit in running if not edit.error}, of=len(edits))
        running = on
        if not running or step == settings.steps - 1:
            return
        optimizer.zero_grad()
        torch.stack([edit.whole(found[edit]) for edit in running]).sum().backward()
        for edit in set(current.edits).difference(running):
            edit.change.grad = None  # Adam would go on with the momentum of one that is done
        optimizer.step()
        for edit in running:
            edit.constrain()
