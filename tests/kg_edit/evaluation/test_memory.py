"""The seconds and the largest memory of a piece of work."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from kg_edit.evaluation import memory
from kg_edit.evaluation.memory import measure_cost

MB = 1024 * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux starts the largest memory anew")
def test_memory_of_a_large_tensor_counts_only_while_it_is_measured() -> None:
    with measure_cost() as large:
        # Mapped, not allocated: malloc may answer with pages that an earlier test left resident.
        torch.frombuffer(mmap.mmap(-1, 32 * MB), dtype=torch.uint8).fill_(1)
    with measure_cost() as small:
        pass
    assert large.memory is not None and small.memory is not None
    assert large.memory - small.memory > 24 * MB
    assert large.seconds > small.seconds > 0


def test_memory_is_none_on_other_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_RESET", tmp_path / "missing" / "clear_refs")
    with measure_cost() as cost:
        pass
    assert cost.memory is None and cost.seconds > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux starts the largest memory anew")
def test_work_that_fails_is_measured_too() -> None:
    with pytest.raises(ZeroDivisionError), measure_cost() as cost:
        _ = 1 / 0
    assert cost.memory
