"""Float64 for sums and solves, wherever a model lies: Apple's accelerator (mps) has none, nor have some of Intel's."""

from __future__ import annotations

import torch
from torch import Tensor


def has_float64(device: torch.device) -> bool:
    """Return whether tensors on ``device`` can be in float64."""
    if device.type == "cpu":
        return True
    try:
        torch.ones(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def exact(tensor: Tensor) -> Tensor:
    """Return the tensor in float64: on its device if that has float64, else on the CPU."""
    return tensor.double() if has_float64(tensor.device) else tensor.cpu().double()
