"""Gradient descent on a change of a weight that the model never holds: it is added while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kg_edit.errors import PatchError
from kg_edit.models.language_model import weight_matrix


class WeightChange:
    """A change [out, in] of a projection's weight, from 0, in float32; ``change`` is the leaf to be learned.

    In half precision what the model feels is the change that is left once the weight is rounded; the gradient goes
    straight through the rounding.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._weight = module, weight_matrix(module)
        self.change = torch.zeros(self._weight.shape, device=self._weight.device, requires_grad=True)

    @contextmanager
    def worn(self) -> Iterator[None]:
        """For the length of the block the module answers y + change x."""

        def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + linear(args[0].to(self.change), self._felt()).to(output)

        handle = self._module.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def _felt(self) -> Tensor:
        if self._weight.dtype == torch.float32:
            return self.change
        exact = self._weight.float() + self.change.detach()
        return self.change + (exact.to(self._weight.dtype).float() - exact)


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How to go down: Adam, at most ``steps`` looks at the loss, done when it is below ``stop_below``."""

    steps: int
    learning_rate: float
    stop_below: float

    def run(
        self,
        parameters: Sequence[Tensor],
        loss: Callable[[], Tensor],
        *,
        penalty: Callable[[], Tensor] | None = None,
        constrain: Callable[[], None] = lambda: None,
    ) -> list[float]:
        """Learn ``parameters`` in place; the losses, without ``penalty``, one a look.

        The last look makes no step: what is left is something whose loss was seen. ``constrain`` follows each step.

        Raises:
            PatchError: a loss is not a number.
        """
        optimizer = torch.optim.Adam(list(parameters), lr=self.learning_rate)
        losses: list[float] = []
        for step in range(self.steps):
            found = loss()
            losses.append(checked_loss(found, step))
            if losses[-1] < self.stop_below or step == self.steps - 1:
                break
            take_step(optimizer, found if penalty is None else found + penalty())
            constrain()
        return losses


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimiser down the gradient of ``loss``."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def checked_loss(loss: Tensor, step: int) -> float:
    """The loss as a number.

    Raises:
        PatchError: it is none.
    """
    found = float(loss.detach())
    if not torch.isfinite(loss.detach()).all():
        raise PatchError(f"the loss is {found} at step {step}; lower the learning rate, or load the model in float32")
    return found
