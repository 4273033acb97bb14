"""Integrated gradients (Sundararajan et al., ICML 2017, arXiv 1703.01365): how much each input gives to an output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def integrated_gradients(function: Callable[[Tensor], Tensor], point: Tensor, *, steps: int) -> Tensor:
    """x_i times the mean of df/dx_i along the straight line from 0 to x, for each of many x: [rows, n].

    ``function`` takes [rows, n] and gives one number a row, which may depend on that row alone. The integral is a
    Riemann sum at the middles of ``steps`` pieces; as the steps grow, a row sums to f(x) - f(0) (completeness).
    """
    total = torch.zeros_like(point)
    for step in range(steps):
        scaled = (point.detach() * ((step + 0.5) / steps)).requires_grad_()
        (gradient,) = torch.autograd.grad(function(scaled).sum(), scaled)
        total += gradient
    return point.detach() * total / steps
