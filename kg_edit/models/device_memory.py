"""Ask an accelerator how much of its memory is free."""

from __future__ import annotations

import torch


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
    return None if free is None else free / 2e6
