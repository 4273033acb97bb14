"""What an edit costs: seconds, and the largest memory taken meanwhile.

The memory is that of the devices if CUDA is in use, else the process' resident memory, model included. Linux tells the
latter's largest value and lets a process start it anew (``/proc/self/clear_refs``); elsewhere it is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_LARGEST_RESIDENT = "5"  # what clear_refs is told to start anew, see proc(5)


@dataclass(kw_only=True)
class Cost:
    """``seconds``, and ``memory`` in bytes (None: unknown), known when the measurement has ended."""

    seconds: float = 0.0
    memory: int | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure what is done inside; a measurement within another one cuts the outer one's memory short."""
    cost, start, known = Cost(), time.perf_counter(), _start_anew()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        cost.memory = _largest() if known else None


def _start_anew() -> bool:
    """Forget the largest memory so far; False if this system does not tell it."""
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _RESET.write_text(_LARGEST_RESIDENT)
    except OSError:
        return False
    return True


def _largest() -> int | None:
    if torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    lines = _STATUS.read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
