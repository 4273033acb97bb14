"""Measure this machine: its free memory, and how fast it multiplies matrices, in a short benchmark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from kg_edit.models.loading import pick_device

_SECONDS = 0.25  # duration of one measurement
_BEYOND_CACHE = 96e6  # bytes of the matrices of a measurement, which are used in turn, as in a model
_LARGEST = 4096  # rows and columns of a matrix, at most: larger ones have the same speed
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The free bytes of the main memory (``host``) and of the device's own memory (``accelerator``).

    None: unknown, or the device has no memory of its own.
    """

    device: torch.device
    host: int | None
    accelerator: int | None

    @property
    def is_cpu(self) -> bool:
        """Whether the model is in the main memory."""
        return self.device.type == "cpu"


def this_machine(device: str = "auto") -> Machine:
    """Measure the free memory; ``device`` is auto, cpu, cuda, cuda:1 …

    Raises:
        ModelError: there is no such device.
    """
    chosen = pick_device(device)
    own = torch.cuda.mem_get_info(chosen)[0] if chosen.type == "cuda" else None
    return Machine(device=chosen, host=free_memory(), accelerator=own)


def free_memory() -> int | None:
    """Bytes that a new process may take, also within a container's limit; None if the system does not say."""
    found = [bytes_ for bytes_ in (_available(), _below_limit()) if bytes_ is not None]
    return min(found, default=None)


def matmul_rate(rows: int, shape: tuple[int, int], *, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of [rows, in] times [in, out], one matrix after the other, like a model's layers.

    With few rows, memory limits the speed, with many rows arithmetic does: measure with the real number of rows.
    """
    size = (min(shape[0], _LARGEST), min(shape[1], _LARGEST))
    one = torch.empty(0, dtype=dtype).element_size() * size[0] * size[1]
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(size, generator=generator).to(device, dtype)
        for _ in range(max(1, min(32, int(_BEYOND_CACHE / one))))
    ]
    states = torch.randn(rows, size[0], generator=generator).to(device, dtype)
    seconds = min(_timed(states, weights))  # the fastest one is least disturbed by other processes
    return 2.0 * rows * size[0] * size[1] / seconds


@torch.no_grad()
def _timed(states: torch.Tensor, weights: list[torch.Tensor]) -> Iterator[float]:
    """Yield the seconds of each product, taking the weights in turn; the first round is a warm-up and left out.

    On a CPU, the processor time counts if it is less, so that other processes do not make the machine look slow.
    """
    on_cpu, end = states.device.type == "cpu", float("inf")
    for number in count():
        start, busy = time.perf_counter(), time.process_time()
        _ = states @ weights[number % len(weights)]
        if not on_cpu:
            torch.cuda.synchronize(states.device)
        now, worked = time.perf_counter(), (time.process_time() - busy) / torch.get_num_threads()
        if number == len(weights):
            end = now + _SECONDS
        if number >= len(weights):
            yield min(now - start, worked) if on_cpu and worked > 0 else now - start
        if now >= end:
            return


def copy_rate() -> float:
    """Bytes/s at which numbers are copied in main memory (reads and writes), for arrays larger than the caches."""
    source = torch.ones(int(_BEYOND_CACHE / 4))
    target = torch.empty_like(source)
    return 2 * _BEYOND_CACHE / _fastest(lambda: target.copy_(source))


def drawing_rate(rows: int, vocabulary: int) -> float:
    """Logits/s on the CPU from which tokens are drawn as in `generate`: copy, mask, softmax, one draw a row."""
    generator = torch.Generator().manual_seed(0)
    logits, banned = torch.zeros(rows, vocabulary), torch.zeros(vocabulary, dtype=torch.bool)

    def draw() -> torch.Tensor:
        kept = torch.where(banned, -torch.inf, logits.to(torch.float32, copy=True))
        return kept.softmax(-1).multinomial(1, generator=generator)

    return rows * vocabulary / _fastest(draw)


def call_seconds() -> float:
    """Seconds to call one small operation from Python."""
    state, weight, times = torch.ones(1, 8), torch.ones(8, 8), 1000

    def call() -> None:
        for _ in range(times):
            torch.nn.functional.linear(state, weight)

    return _fastest(call) / times


@torch.no_grad()
def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest ``run`` on the CPU; processor time if it is less, as in `_timed`."""
    found, end = float("inf"), time.perf_counter() + _SECONDS
    run()
    while True:
        start, busy = time.perf_counter(), time.process_time()
        run()
        now, worked = time.perf_counter(), (time.process_time() - busy) / torch.get_num_threads()
        found = min(found, now - start, worked or found)
        if now >= end:
            return found


def _available() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return _physical()


def _physical() -> int | None:
    """The whole physical memory, if the system does not say what is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _below_limit() -> int | None:
    """The bytes that a container's limit leaves; None if there is no limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (_CGROUP / "memory.current").read_text(encoding="ascii").strip()
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None
