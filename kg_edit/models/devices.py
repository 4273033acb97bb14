"""What a device can do: how much of its memory is free, and whether it has float64.

Apple's accelerator (mps) has no float64, nor have some of Intel's; sums and solves then run on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that tensors may still take on ``device``; None if it is the CPU, or doesn't tell.

    Blocks that torch's allocator keeps for later tensors count as free.
    """
    if device.type in ("cuda", "xpu"):
        module = torch.get_device_module(device)
        cached = module.memory_reserved(device) - module.memory_allocated(device)
        return int(module.mem_get_info(device)[0] + cached)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return None


def pass_megabytes(device: torch.device) -> float | None:
    """Return the MB that forward passes may take on ``device`` by default: half of what is free; None if unknown."""
    free = free_bytes(device)
    if free is None:
        return None
    return free / 2e6


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
    if has_float64(tensor.device):
        return tensor.double()
    return tensor.cpu().double()
