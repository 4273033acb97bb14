"""Where a model is put, and in which type of numbers, by the names that users give."""

from __future__ import annotations

import torch

from kg_edit.errors import ModelError


def pick_device(device: str) -> torch.device:
    """The device of a name; ``auto`` is an accelerator where there is one.

    Raises:
        ModelError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"there is no device {device!r} here: {first}; use auto, cpu, cuda or cuda:1") from error


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; ``auto`` is float32 on a CPU and bfloat16 elsewhere.

    Raises:
        ModelError: there is no such dtype of floating-point numbers.
    """
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"dtype {dtype!r} is unknown; use auto, float32, bfloat16 or float16")
    return found
