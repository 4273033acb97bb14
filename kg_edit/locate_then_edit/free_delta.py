"""A value's change m* - m [d] as a free parameter, as in ROME and MEMIT, and the optimisers that train it.

With g the gradient of the loss at the change delta, and r = clamp_norm_factor |m| the limit of its norm:

- ``adam``: Adam, as published.
- ``momentum``: u <- 0.7 u + g / |g|, delta <- delta - learning_rate r u. The gradient of a loss that starts near 8 nats
  says more by its direction than by its length, and the minimum usually lies at the limit. Steps that are a share of
  the limit reach it in about half of Adam's evaluations. For edits that share a model Adam is better: hundreds of
  changes found by ``momentum`` cost more of the model's other text (docs/speed.md).

After each step delta is rescaled if its norm exceeds r.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Optimiser = Literal["adam", "momentum"]
OPTIMISER = "how the change is trained: adam (published), or momentum, whose learning_rate is a share of the norm limit"
# In the preset "fast" of single edits; chosen on the first 24 records of CounterFactPlus.
MOMENTUM: dict[str, Any] = {"optimiser": "momentum", "learning_rate": 0.15}
STOP_NLL = 0.1
_EVALUATIONS = 8  # of an edit that stops at STOP_NLL; means of 6.4 to 9.3 were measured
_KEPT = 0.7  # of the last step's direction


def expected_steps(steps: int, optimiser: Optimiser, *, stop_nll: float) -> int:
    """How many of at most ``steps`` evaluations an edit needs on average, for estimates of time."""
    return min(steps, _EVALUATIONS) if optimiser == "momentum" and stop_nll >= STOP_NLL else steps


class StepSettings(Protocol):
    """The settings that `FreeDelta` reads: the optimiser, its learning rate and the limit of the norm."""

    @property
    def optimiser(self) -> Optimiser:
        """The optimiser's name."""

    @property
    def learning_rate(self) -> float:
        """Adam's learning rate, or the share of the limit that a step of ``momentum`` moves; above 0."""

    @property
    def clamp_norm_factor(self) -> float:
        """The largest |m* - m|, as a multiple of |m|."""


class FreeDelta:
    """The change m* - m as a free parameter.

    It starts at ``start``, or at 0. Its norm is at most ``clamp_norm_factor`` times |m|, also at the start.
    """

    def __init__(self, value: Tensor, config: StepSettings, *, start: Tensor | None = None) -> None:
        self._change = (torch.zeros_like(value) if start is None else start.detach().clone()).requires_grad_()
        self._limit = config.clamp_norm_factor * value.norm()
        self._clamp()
        self._optimizer: torch.optim.Optimizer
        if config.optimiser == "adam":
            self._optimizer = torch.optim.Adam([self._change], lr=config.learning_rate)
        else:
            length = config.learning_rate * float(self._limit)
            self._optimizer = torch.optim.SGD([self._change], lr=length, momentum=_KEPT)
        self._normalised = config.optimiser == "momentum"

    def change(self) -> Tensor:
        """The current change m* - m, [d]; a leaf tensor."""
        return self._change

    @torch.no_grad()
    def learn(self) -> None:
        """Take a step of the optimiser, then rescale the change if its norm exceeds the limit."""
        gradient = self._change.grad
        if self._normalised and gradient is not None:
            gradient.div_(gradient.norm().clamp(min=1e-12))
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._clamp()

    @torch.no_grad()
    def _clamp(self) -> None:
        self._change.mul_((self._limit / self._change.norm().clamp(min=1e-12)).clamp(max=1.0))
