"""A function that is called again and again with tensors of one shape: on CUDA, its kernels are captured as a graph.

A step of a descent is some thousand kernels, and in a large model to start them one by one takes far longer than to run
them. A CUDA graph starts all at once, without Python. The function must be pure: of all that it reads, only its
argument may change between two calls, and nothing may be read back to the main memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Work = Callable[[Tensor], tuple[Tensor, ...]]
_SLACK = 0.05  # relative; sums of bfloat16 products may be added in another order


class Repeated:
    """Calls a function as it is, and from the second call on as a CUDA graph, if it can be captured.

    ``capture`` is whether to try: only on CUDA, with all tensors on one device.
    """

    def __init__(self, *, capture: bool) -> None:
        self._calls, self._capture = 0, capture
        self._replay: Work | None = None

    def __call__(self, work: Work, given: Tensor) -> tuple[Tensor, ...]:
        """Return ``work(given)``; ``work`` is the same at each call."""
        self._calls += 1
        if self._capture and self._calls == 2:  # a function that is called once is not worth it
            self._replay = captured(work, given)
        return (self._replay or work)(given)


def captured(work: Work, example: Tensor) -> Work | None:
    """Return ``work`` as a CUDA graph for tensors like ``example``; None if it can't be captured.

    What can't be captured, such as blocks that choose their experts on the host, is logged at debug level.
    """
    given = example.detach().clone()
    try:
        with torch.cuda.device(given.device):
            expected = _on_side_stream(work, given)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                results = work(given)
            graph.replay()
        if not all(_alike(*pair) for pair in zip(results, expected, strict=True)):
            raise RuntimeError("the graph's results are not those of the function")
    except RuntimeError as error:
        log.debug("a step is not captured as a CUDA graph: %s", error)
        return None

    def replay(now: Tensor) -> tuple[Tensor, ...]:
        given.copy_(now)
        graph.replay()
        return tuple(result.clone() for result in results)  # the next replay writes over them

    return replay


def _on_side_stream(work: Work, given: Tensor) -> tuple[Tensor, ...]:
    """Call ``work`` as torch asks before a capture, so that libraries are ready; a wait for the device is an error."""
    stream, mode = torch.cuda.Stream(), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            found = work(given)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    torch.cuda.current_stream().wait_stream(stream)
    return found


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two results differ by no more than the order of sums; not finite numbers must be the same."""
    finite = torch.isfinite(other)
    gap = torch.where(finite, one - other, 0.0).norm()
    return torch.equal(torch.isfinite(one), finite) and bool(gap <= _SLACK * torch.where(finite, other, 0.0).norm())
