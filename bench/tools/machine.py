"""What the machine can do, and what a computation asks of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kg_edit.engine.tail_forward import tail
from kg_edit.locate_then_edit.objective import Request
from kg_edit.models.devices import product, takes_onednn
from kg_edit.models.language_model import LanguageModel

_PAGE = 4096
_EVERY = 0.02  # seconds between looks at the memory


def matmul_peak(*, rows: int = 512, inner: int = 576, outer: int = 1536, seconds: float = 1.0) -> float:
    """The best of many products [rows, inner] x [inner, outer] in float32, as the engine makes them, in GFLOP/s."""
    left = torch.randn(rows, inner)
    right = torch.randn(outer, inner)
    multiply = product if takes_onednn() else nn.functional.linear
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(4):
            multiply(left, right)
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * rows * inner * outer / best / 1e9


def useful_flop(model: LanguageModel, layer: int, requests: Sequence[Request]) -> float:
    """FLOP of one loss with gradient that no way around leads: the linear layers above ``layer`` and the head.

    Counted are the tokens from the subject's last one on, forward and backward, without padding and attention.
    """
    head = model.model.get_output_embeddings().weight
    block = sum(part.weight.numel() for part in model.blocks[-1].modules() if isinstance(part, nn.Linear))
    blocks = block * (len(model.blocks) - layer - 1)
    rows = [row for request in requests for row in (*request.rewrites, request.essence)]
    tokens = sum(len(tail(row)) for row in rows)
    reads = sum(max(1, len(row.target_ids)) for row in rows)
    return 4.0 * (tokens * blocks + reads * head.numel())


@dataclass
class Memory:
    """The most memory above the beginning's, in MB."""

    peak: float = 0.0


@contextmanager
def watched_memory() -> Iterator[Memory]:
    """Watch the process's resident memory for the length of the block."""
    memory = Memory()
    begin = _resident()
    over = threading.Event()

    def look() -> None:
        while not over.wait(_EVERY):
            memory.peak = max(memory.peak, _resident() - begin)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1e6
