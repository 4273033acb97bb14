"""A function that is called again and again with tensors of one shape: on CUDA, its kernels are captured as a graph.

A step of a descent is some thousand kernels, and in a large model to start them one by one takes far longer than to run
them. A CUDA graph starts all at once, without Python. The function must be pure: of all that it reads, only its
arguments may change between two calls, and nothing may be read back to the main memory.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]
Work = Callable[..., Tensors]
_SLACK = 0.05  # relative; sums of bfloat16 products may be added in another order


class Repeated:
    """Calls a function as it is once, and from the second call on as a CUDA graph, if it can be captured.

    ``capture`` is whether to try: only on CUDA, with all tensors on one device.
    """

    def __init__(self, *, capture: bool) -> None:
        self._capture = capture
        self._first: tuple[Tensors, Tensors] | None = None  # arguments and results of the first call
        self._replay: Work | None = None

    def __call__(self, work: Work, *given: Tensor) -> Tensors:
        """Return ``work(*given)``; ``work`` is the same at each call."""
        if self._replay:
            return self._replay(*given)
        return self._capturing(work, given) if self._capture else work(*given)

    def _capturing(self, work: Work, given: Tensors) -> Tensors:
        """Return ``work(*given)``: of the first call as it is, then of the graph, if there can be one."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's of prototypes, and of a graph that was given up
                if self._first is None:  # a function that is called once is not worth a capture
                    results = without_waiting(work, *given)
                    self._first = tuple(tensor.detach().clone() for tensor in given), results
                    return results
                self._replay = captured(work, *self._first)
        except RuntimeError as error:  # such as blocks that choose their experts on the host
            log.debug("a step is not captured as a CUDA graph: %s", error)
            self._capture = False
        self._first = None
        return (self._replay or work)(*given)


def without_waiting(work: Work, *given: Tensor) -> Tensors:
    """Return ``work(*given)``, which also makes the libraries ready for a capture.

    Raises:
        RuntimeError: it waits for the device.
    """
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return work(*given)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def captured(work: Work, example: Tensors, expected: Tensors) -> Work:
    """Return ``work`` as a CUDA graph for tensors like ``example``, with which its results are ``expected``.

    `torch.cuda.graph` would first give back all memory that torch keeps for later tensors, which takes as long as some
    steps, as does getting it again.

    Raises:
        RuntimeError: it can't be captured, or the graph's results are others.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(example[0].device):
        torch.cuda.graph(graph)  # makes the stream for captures; one is enough for all
        stream, outer = torch.cuda.graph.default_capture_stream, torch.cuda.current_stream()
        assert stream  # noqa: S101
        stream.wait_stream(outer)
        with torch.cuda.stream(stream):
            graph.capture_begin()
            try:
                results = work(*example)
            finally:
                graph.capture_end()
        outer.wait_stream(stream)
        graph.replay()
    if not all(_alike(*pair) for pair in zip(results, expected, strict=True)):
        raise RuntimeError("the graph's results are not those of the function")

    def replay(*now: Tensor) -> Tensors:
        for place, tensor in zip(example, now, strict=True):
            place.copy_(tensor)
        graph.replay()
        return tuple(result.clone() for result in results)  # the next replay writes over them

    return replay


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two results differ by no more than the order of sums; not finite numbers must be the same."""
    finite = torch.isfinite(other)
    gap = torch.where(finite, one - other, 0.0).norm()
    return torch.equal(torch.isfinite(one), finite) and bool(gap <= _SLACK * torch.where(finite, other, 0.0).norm())
