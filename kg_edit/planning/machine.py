"""Find how much memory is free on this machine: main memory within a container's limit, and the device's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kg_edit.errors import ModelError
from kg_edit.models.devices import free_bytes
from kg_edit.models.loading import pick_device

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The free bytes of the main memory (``host``) and of the device's own memory (``accelerator``).

    None: unknown, or the device has no memory of its own.
    """

    device: torch.device
    is_here: bool = True  # else only what a run needs is known
    host: int | None
    accelerator: int | None

    @property
    def is_cpu(self) -> bool:
        """Whether the model is in the main memory."""
        return self.device.type == "cpu"


def this_machine(device: str = "auto") -> Machine:
    """Measure the free memory; ``device`` is auto, cpu, cuda, cuda:1 … Of a device that is not here, none is known."""
    try:
        chosen = pick_device(device)
    except ModelError:
        try:
            return Machine(device=torch.device(device), is_here=False, host=None, accelerator=None)
        except RuntimeError:
            pass
        raise
    return Machine(device=chosen, host=free_memory(), accelerator=free_bytes(chosen))


def free_memory() -> int | None:
    """Return the bytes that a new process may take, also within a container's limit; None if unknown."""
    free: int | None
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        try:  # no Linux: the whole physical memory
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            free = None
    try:  # what a container's limit leaves
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (_CGROUP / "memory.current").read_text(encoding="ascii").strip()
        below = None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        below = None
    return min((bytes_ for bytes_ in (free, below) if bytes_ is not None), default=None)
