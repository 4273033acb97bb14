"""What a call costs in seconds and memory, and what to do if memory runs out: try again with half of the items.

The memory is that of the devices if CUDA is in use, else the resident memory of the process, model included. Linux
reports the largest value and lets a process reset it (``/proc/self/clear_refs``); elsewhere it is unknown.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from kg_edit.errors import ModelError, is_memory_error

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_LARGEST_RESIDENT = "5"  # what to write into clear_refs to reset VmHWM, see proc(5)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(kw_only=True)
class Cost:
    """``seconds``, and ``memory`` in bytes (None: unknown), known when the measurement has ended."""

    seconds: float = 0.0
    memory: int | None = None


@contextmanager
def measure_cost() -> Iterator[Cost]:
    """Measure the block; a measurement inside another one resets the outer one's largest memory."""
    cost = Cost()
    start = time.perf_counter()
    is_known = _reset_largest()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        if is_known:
            cost.memory = _read_largest()


def _reset_largest() -> bool:
    """Begin a new measurement of the largest memory; False if that is not possible here."""
    if torch.cuda.is_initialized() and torch.cuda.device_count():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _RESET.write_text(_LARGEST_RESIDENT)
    except OSError:  # not Linux
        return False
    return True


def _read_largest() -> int | None:
    """Return the largest memory since the reset, in bytes; that of the devices, if CUDA came into use since then."""
    if torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):  # the largest resident memory, "VmHWM:  1234 kB"
            return int(line.split()[1]) * 1024
    return None


def in_halves(call: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result]:
    """Return ``call(items)``; if memory runs out, call it for each half of the items, and so on."""
    if not items:
        return []
    try:
        return list(call(items))
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        failure = make_memory_error(error)  # made here, because the error keeps the failed call's tensors alive
    release()
    if len(items) == 1:
        raise failure
    middle = len(items) // 2
    return [*in_halves(call, items[:middle]), *in_halves(call, items[middle:])]


def make_memory_error(error: Exception) -> ModelError:
    """Return the ModelError that says in words what an out-of-memory ``error`` means."""
    first = (str(error).splitlines() or ["MemoryError"])[0]
    return ModelError(
        f"out of memory even for a batch of one: {first}; use a smaller model, or a machine with more memory"
    )


def release() -> None:
    """Free the memory that a failed call's tensors still hold, on the CPU and on the accelerator."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
