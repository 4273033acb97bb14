"""A bound of the memory that a block of a test adds to the process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def adds_at_most(megabytes: int) -> Iterator[None]:
    """Check that the block adds at most ``megabytes``; on Linux the peak of earlier tests does not hide its own."""
    with suppress(OSError):  # Linux: the peak begins again at what is in use now
        Path("/proc/self/clear_refs").write_text("5")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kB, but on macOS in bytes
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes * 1024
