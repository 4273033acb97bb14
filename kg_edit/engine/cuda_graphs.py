"""Call a function again and again with tensors of one shape: on CUDA, its kernels are captured as a graph.

A step of a descent is some thousand kernels, and in a large model to start them one by one takes far longer than to run
them. A CUDA graph starts all at once, without Python. The function must be pure: of all that it reads, only its
arguments may change between two calls, and nothing may be read back to the main memory.

`Repeated` copies the arguments to where the graph reads them. `RepeatedInPlace` is for parameters, which an optimiser
changes where they are; its graphs are the function and its gradient.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]
Work = Callable[..., Tensors]
Graphs = tuple[Callable[[], Tensor], Callable[[Tensor], Tensors]]
"""Two functions: () -> the function's result; the gradient of the last result -> the gradients of the parameters."""
_SLACK = 0.05  # relative; sums of bfloat16 products may be added in another order


class Repeated:
    """Calls a function as it is once, and from the second call on as a CUDA graph, if it can be captured.

        first call      the function runs as it is; its arguments and results are kept, as an example for the graph
        second call     the graph is captured, and checked by the example; then it runs
        later calls     the graph runs

    ``capture`` is whether to try: only on CUDA, with all tensors on one device. After the first error every call runs
    the function as it is.
    """

    def __init__(self, *, capture: bool) -> None:
        self._may_capture = capture
        self._example: tuple[Tensors, Tensors] | None = None  # arguments and results, from the first call to the second
        self._replay: Work | None = None

    def __call__(self, work: Work, *arguments: Tensor) -> Tensors:
        """Return ``work(*arguments)``; ``work`` is the same at each call."""
        if self._may_capture and self._example is None:  # the first call
            return self._call_first(work, arguments)
        if self._may_capture and self._example is not None:  # the second call
            example, expected = self._example
            self._example = None  # its tensors are not needed any more
            self._try_capture(work, example, expected)
        if self._replay is None:  # there is no graph
            return work(*arguments)
        return self._replay(*arguments)

    def _call_first(self, work: Work, arguments: Tensors) -> Tensors:
        """Return ``work(*arguments)``, and keep copies of the arguments, and the results, for the capture."""
        results = None
        try:
            with _ignore_warnings():
                results = run_without_waiting(work, *arguments)
        except RuntimeError as error:  # such as blocks that choose their experts on the host
            self._give_up(error)
        if results is None:  # not inside the handler, where the error still holds the tensors of the failed call
            return work(*arguments)
        copies = tuple(tensor.detach().clone() for tensor in arguments)
        self._example = (copies, results)
        return results

    def _try_capture(self, work: Work, example: Tensors, expected: Tensors) -> None:
        """Make the graph for tensors like ``example``, with which the results are ``expected``."""
        self._may_capture = False  # it is tried once
        try:
            with _ignore_warnings():
                self._replay = capture(work, example, expected)
        except RuntimeError as error:
            self._give_up(error)

    def _give_up(self, error: RuntimeError) -> None:
        """Make no further attempt, because of an ``error``."""
        log.debug("a step is not captured as a CUDA graph: %s", error)
        self._may_capture = False


class RepeatedInPlace:
    """Calls a function of parameters, and differentiates it: as it is, or as two CUDA graphs, if it can be captured.

    The parameters must stay in their memory. ``capture`` is whether to try: only on CUDA, with all tensors on one
    device. A step of training:

        result = repeated(work, *parameters)    # of a graph it is a leaf, so a backward pass ends there
        result.backward(gradient)
        repeated.pass_on(parameters)            # a second graph makes the parameters' gradients from the result's
        optimizer.step()
    """

    def __init__(self, *, capture: bool) -> None:
        self._may_capture = capture
        self._graphs: Graphs | None = None
        self._result: Tensor | None = None  # the last result, if graphs make it

    def __call__(self, work: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
        """Return ``work(*parameters)``; ``work`` and ``parameters`` are the same at each call.

        The result can be differentiated until the next call. That of a graph is a leaf, after whose backward pass
        `pass_on` has to be called.
        """
        if self._may_capture:
            self._may_capture = False  # it is tried once
            self._try_capture(work, parameters)
        if self._graphs is None:
            return work(*parameters)
        run_forward, _ = self._graphs
        self._result = run_forward().requires_grad_()
        return self._result

    def _try_capture(self, work: Callable[..., Tensor], parameters: Tensors) -> None:
        """Capture the function and its gradient, if that is possible."""

        def compute_gradients(*leaves: Tensor) -> Tensors:
            result = work(*leaves)
            return result, *torch.autograd.grad(result, leaves, torch.ones_like(result))

        try:
            with _ignore_warnings():
                # A call as it is makes the libraries ready, and shows what the graphs have to return.
                result, *gradients = run_without_waiting(compute_gradients, *parameters)
                self._graphs = capture_in_place(work, parameters, result, gradients)
        except RuntimeError as error:
            log.debug("a function of parameters is not captured as CUDA graphs: %s", error)

    def pass_on(self, parameters: Iterable[Tensor]) -> None:
        """Give ``parameters`` their gradients, if a graph made the last result.

        That result is a leaf, so the backward pass has left a gradient on it alone.
        """
        if self._graphs is None:  # the function ran as it is, and the parameters already have their gradients
            return
        if self._result is None or self._result.grad is None:  # there was no call, or no backward pass after it
            return
        _, run_backward = self._graphs
        for parameter, gradient in zip(parameters, run_backward(self._result.grad), strict=True):
            parameter.grad = gradient


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Hide torch's warnings of prototypes, and of a graph that was given up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def run_without_waiting(work: Work, *arguments: Tensor) -> Tensors:
    """Return ``work(*arguments)``; raise an error where it waits for the device, which a graph can't do.

    The call also makes the libraries ready for a capture.
    """
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return work(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def capture(work: Work, example: Tensors, expected: Tensors) -> Work:
    """Return ``work`` as a CUDA graph for tensors like ``example``, with which its results are ``expected``."""
    graph = torch.cuda.CUDAGraph()
    # A capture runs no kernel: it records those that read ``example`` and write ``results``. A replay runs them.
    with _capturing(graph, example[0].device):
        results = work(*example)
    graph.replay()
    if not _are_alike(results, expected):
        raise RuntimeError("the graph's results are not those of the function")

    def replay(*arguments: Tensor) -> Tensors:
        for buffer, tensor in zip(example, arguments, strict=True):  # the graph reads its arguments in ``example``
            buffer.copy_(tensor)
        graph.replay()
        return tuple(result.clone() for result in results)  # the next replay writes over them

    return replay


def capture_in_place(
    work: Callable[..., Tensor], parameters: Tensors, expected: Tensor, expected_gradients: Sequence[Tensor]
) -> Graphs:
    """Return ``work(*parameters)`` and its gradient as two CUDA graphs that share their memory.

    Args:
        work: the function.
        parameters: what it reads; the graphs read it where it is.
        expected: its result.
        expected_gradients: those of the sum of the result, of each parameter.
    """
    forward = torch.cuda.CUDAGraph()
    backward = torch.cuda.CUDAGraph()
    # Leaves of their own in the parameters' memory: autograd adds up the gradient of a leaf in the stream in which the
    # leaf was first used, and these are first used in the stream that is captured.
    leaves = [parameter.detach().requires_grad_() for parameter in parameters]
    result_gradient = torch.ones_like(expected)
    with _capturing(forward, result_gradient.device):
        result = work(*leaves)
    with _capturing(backward, result_gradient.device, pool=forward.pool()):
        # `backward` gives a leaf's gradient the leaf's own strides, which `grad` need not. The fused optimiser reads a
        # parameter and its gradient as if they had the same.
        torch.autograd.backward([result], [result_gradient], inputs=leaves)
    # Made during the capture, so each replay of ``backward`` writes the gradients of ``result_gradient`` into them.
    gradients = tuple(leaf.grad for leaf in leaves if leaf.grad is not None)
    result = result.detach()
    forward.replay()
    backward.replay()
    if not _are_alike((result, *gradients), (expected.detach(), *expected_gradients)):
        raise RuntimeError("the graphs' results are not those of the function")

    def replay() -> Tensor:
        forward.replay()
        return result.clone()

    def replay_backward(gradient: Tensor) -> Tensors:
        result_gradient.copy_(gradient)
        backward.replay()
        return gradients

    return replay, replay_backward


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, device: torch.device, *, pool: Any = None) -> Iterator[None]:
    """Capture what the block runs on ``device`` as ``graph``, in the memory of ``pool`` if that is given.

    `torch.cuda.graph` would first give back all memory that torch keeps for later tensors, which takes as long as some
    steps, as does getting it again.
    """
    with torch.cuda.device(device):
        stream = _capture_stream(graph)
        outer = torch.cuda.current_stream()
        stream.wait_stream(outer)
        with torch.cuda.stream(stream):
            graph.capture_begin(pool)
            try:
                yield
            finally:
                graph.capture_end()
        outer.wait_stream(stream)


def _capture_stream(graph: torch.cuda.CUDAGraph) -> torch.cuda.Stream:
    """Return the stream in which torch captures, the same for all graphs.

    torch makes it when the first `torch.cuda.graph` is made, and keeps it on that class; so one is made, and not used.
    """
    torch.cuda.graph(graph)
    stream = torch.cuda.graph.default_capture_stream
    assert stream  # noqa: S101
    return stream


def _are_alike(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Return whether results differ by no more than the order of sums, and are finite at the same places."""
    for result, wanted in zip(results, expected, strict=True):
        finite = torch.isfinite(wanted)
        if not torch.equal(torch.isfinite(result), finite):
            return False
        gap = torch.where(finite, result - wanted, 0.0).norm()
        size = torch.where(finite, wanted, 0.0).norm()
        if not gap <= _SLACK * size:
            return False
    return True
