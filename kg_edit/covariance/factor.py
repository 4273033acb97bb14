"""A^-1 B for C's A = C + ridge I [d_ff, d_ff], on the device of B, to the residual of float64.

A is factored once (Cholesky). On a device whose float64 is slow (`has_fast_float64`, measured) the factor is in
float32, and the solution is refined with residuals in float64 (Wilkinson; Higham, Accuracy and Stability, ch. 12):

    x <- x + (L L^T)^-1 (b - A x)

Each step multiplies the error by about cond(A) times float32's precision. Measured on SmolLM2-135M, layer 5: cond(A) is
250, and two steps reach the residual of float64. If the steps do not get there, the factor is in float64 after all.

The CPU always has float64. It also factors what the device has no room for, and what is on a device without float64
(`kg_edit.models.devices`). A factor stays on its device if it takes at most half of what is free there, else in pinned
main memory.
"""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor

from kg_edit.errors import is_memory_error
from kg_edit.models.devices import free_bytes

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
_FAST = 16.0  # a slower product in float64 costs more than the factor in float32 and its refinement
_SIZE = 1024  # size of the matrices whose products are timed
_ROUNDS = 3  # how many products are timed
_STEPS = 10  # the most steps of a refinement; a matrix that needs more is too ill-conditioned for it
_ROWS = 1024  # rows of A that are in float64 at once


class Factor:
    """The Cholesky factor of A = C + ridge mean(diag C) I, and A^-1 B with it, on one device.

    Args:
        moment: C, [d_ff, d_ff].
        ridge: the ridge, relative to the mean of C's diagonal.
        device: where to factor and to solve; the CPU does it if there is no room.
    """

    def __init__(self, moment: Tensor, ridge: float, device: torch.device) -> None:
        self._c = moment
        self._ridge = ridge
        self._device = device
        self._make(exact=has_fast_float64(device))

    def _make(self, *, exact: bool) -> None:
        """Factor in float64 (``exact``) or float32; in float64 after all if float32 finds A not positive definite."""
        self._exact = exact
        try:
            is_definite = self._factor()
        except (RuntimeError, MemoryError) as error:
            if self._device == CPU or not is_memory_error(error):
                raise
            self._to_cpu()
            return
        if is_definite:
            return
        if exact:
            raise torch.linalg.LinAlgError("the matrix is not positive definite")  # type: ignore[attr-defined]
        self._make(exact=True)

    def _factor(self) -> bool:
        """Factor A in the chosen precision; return False if it is not positive definite."""
        if self._device.type == "cuda":  # cuSOLVER takes memory of its own, which torch may keep for later tensors
            torch.cuda.empty_cache()
        # C is sent as it is, and converted there; it may be gigabytes.
        dtype = torch.float64 if self._exact else torch.float32
        matrix = self._c.to(self._device).to(dtype, copy=True)
        shift = self._ridge * matrix.diagonal().double().mean()  # rounded to float32, A would be another matrix
        matrix.diagonal().add_(shift)  # in place, so there is no second copy for the ridge
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            return False
        self._lower = _keep(lower)
        self._shift = shift
        if not self._exact:  # for the residuals
            self._c = _keep(self._c.to(self._device))
        return True

    def _to_cpu(self) -> None:
        """Factor and solve on the CPU from now on."""
        log.debug(
            "%s has no room for the factor of a matrix of size %d, so the CPU does it", self._device, len(self._c)
        )
        self._c = self._c.cpu()
        self._device = CPU
        self._make(exact=True)

    def solve(self, columns: Tensor) -> Tensor:
        """Return A^-1 B in float64, on the device of ``columns`` B [d_ff, n], which is in float64."""
        solution: Tensor | None
        try:
            rhs = columns.to(self._device)
            lower = self._lower.to(self._device, non_blocking=True)
            if self._exact:
                solution = torch.cholesky_solve(rhs, lower)
            else:
                solution = refine(self._c.to(self._device, non_blocking=True), self._shift, lower, rhs)
        except (RuntimeError, MemoryError) as error:  # less may be free now than when it was factored
            if self._device == CPU or not is_memory_error(error):
                raise
            self._to_cpu()
            return self.solve(columns)
        if solution is None:
            log.debug("a matrix of size %d is too ill-conditioned for a factor in float32", len(rhs))
            self._make(exact=True)
            return self.solve(columns)
        return solution.to(columns.device)


def refine(moment: Tensor, shift: Tensor, lower: Tensor, columns: Tensor) -> Tensor | None:
    """Return (C + shift I)^-1 B in float64, by a factor in float32; None if the steps do not get there.

    Args:
        moment: C, [n, n].
        shift: what is added to its diagonal, a number in float64.
        lower: the Cholesky factor of C + shift I in float32, [n, n].
        columns: B in float64, [n, columns].
    """
    solution = torch.zeros_like(columns)  # x
    residual = columns  # b - A x
    before = residual.norm(dim=0)
    for _ in range(_STEPS):
        solution = solution + torch.cholesky_solve(residual.float(), lower).double()
        product = torch.cat([rows.double() @ solution for rows in moment.split(_ROWS)])  # C x
        residual = columns - product - shift * solution
        now = residual.norm(dim=0)
        if not (now < before / 2).any():  # float64's rounding is reached, or the factor is too rough
            break
        before = now
    # |b - A x| <= 10 eps |A| |x| in each column: what a solve in float64 leaves, too
    bound = 10 * torch.finfo(torch.float64).eps * (moment.norm().double() + shift)
    if not (now <= bound * solution.norm(dim=0)).all():
        return None
    return solution


def _keep(matrix: Tensor) -> Tensor:
    """Return the matrix on its device if it takes at most half of what is free there, else in pinned main memory."""
    free = free_bytes(matrix.device)
    if free is None or matrix.nbytes <= free:  # ``free`` is what is left beside it
        return matrix
    log.debug("a factor of %d MB is kept in main memory", matrix.nbytes / 1e6)
    if matrix.is_cuda:
        return matrix.cpu().pin_memory()
    return matrix.cpu()


def has_fast_float64(device: torch.device) -> bool:
    """Return whether a product in float64 on ``device`` takes at most 16 times as long as in float32.

    Both are timed for each factor, which takes far longer than these eight products.
    """
    if device == CPU:
        return True
    return _seconds(device, torch.float64) <= _FAST * _seconds(device, torch.float32)


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Return the shortest time of three products of two matrices, after one that starts the library."""
    matrix = torch.ones(_SIZE, _SIZE, device=device, dtype=dtype)
    times = list[float]()
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[1:])
