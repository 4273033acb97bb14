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

    They are None if they are unknown, or if the device has no memory of its own. ``is_here`` is false for a device that
    this machine does not have.
    """

    device: torch.device
    is_here: bool = True
    host: int | None
    accelerator: int | None

    @property
    def is_cpu(self) -> bool:
        """Whether the model is in the main memory."""
        return self.device.type == "cpu"


def this_machine(device: str = "auto") -> Machine:
    """Measure the free memory; ``device`` is auto, cpu, cuda, cuda:1 … It is unknown for a device that is not here."""
    try:
        chosen = pick_device(device)
    except ModelError as error:
        try:
            absent = torch.device(device)
        except RuntimeError:  # not the name of a device
            raise error from None
        return Machine(device=absent, is_here=False, host=None, accelerator=None)
    return Machine(device=chosen, host=free_memory(), accelerator=free_bytes(chosen))


def free_memory() -> int | None:
    """Return the bytes that a new process may take, also within a container's limit; None if unknown."""
    known = [count for count in (_free_in_system(), _free_in_container()) if count is not None]
    return min(known, default=None)


def _free_in_system() -> int | None:
    """Return the available bytes; on systems other than Linux, the whole physical memory."""
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _free_in_container() -> int | None:
    """Return the bytes that a container's limit leaves; None if there is no limit.

    What counts as used includes files that were read and are still in memory. The kernel drops the inactive ones of
    these before a process gets no memory, so they count as free.
    """
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (_CGROUP / "memory.current").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        return max(0, int(limit) - int(used) + _count_inactive_file_bytes())
    except (OSError, ValueError):
        return None


def _count_inactive_file_bytes() -> int:
    """Return how many bytes of a container's memory hold inactive pages of files; 0 if unknown."""
    try:
        for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "inactive_file":
                return int(count)
    except (OSError, ValueError):
        pass
    return 0
