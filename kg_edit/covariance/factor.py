"""Solve A X = B for a covariance with its ridge, A = C + ridge mean(diag C) I [d_ff, d_ff], as exactly as float64 does.

A is factored once (Cholesky), and the factor solves for every B. `Factor` makes up to three attempts, in this order:

1. float32 on the device, if its float64 is slow (`has_fast_float64`, measured). The solution is refined with residuals
   in float64 (Wilkinson; Higham, Accuracy and Stability, ch. 12):

       x <- x + (L L^T)^-1 (b - A x)

   Each step multiplies the error by about cond(A) times float32's precision. Measured on SmolLM2-135M, layer 5: cond(A)
   is 250, and two steps reach the residual of float64. If A is too ill-conditioned for that, attempt 2 follows: the
   functions below return None.
2. float64 on the device. If the device has no room for attempt 1 or 2, attempt 3 follows.
3. float64 on the CPU.

A device without float64 never comes here: its columns are on the CPU, and `Covariance._solve` chooses the CPU.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

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


class _Attempt(NamedTuple):
    """Where A is factored and A X = B is solved, and whether A is factored in float64 or in float32."""

    device: torch.device
    in_float64: bool


def _list_attempts(device: torch.device) -> list[_Attempt]:
    """Return the attempts for a device in their order: see the top of this file."""
    attempts = list[_Attempt]()
    if not has_fast_float64(device):
        attempts.append(_Attempt(device, in_float64=False))
    attempts.append(_Attempt(device, in_float64=True))
    if device != CPU:
        attempts.append(_Attempt(CPU, in_float64=True))
    return attempts


class _Cholesky(NamedTuple):
    """The Cholesky factor of A = C + shift I that one attempt made, and what a solution with it needs besides.

    A matrix may be in main memory, if the device is almost full.
    """

    lower: Tensor  # L with A = L L^T, [d_ff, d_ff], in the type of the attempt
    shift: Tensor  # ridge mean(diag C), a number in float64
    moment: Tensor | None  # C [d_ff, d_ff], for the residuals of a factor in float32; None: L is in float64

    def solve(self, columns: Tensor, device: torch.device) -> Tensor | None:
        """Return A^-1 B in float64 on ``device``, of columns B there; None if A is too ill-conditioned for float32."""
        lower = self.lower.to(device, non_blocking=True)
        if self.moment is None:
            return torch.cholesky_solve(columns, lower)
        moment = self.moment.to(device, non_blocking=True)
        return refine(moment, self.shift, lower, columns)


class Factor:
    """Solves A X = B, A = C + ridge mean(diag C) I, for any number of B, with one Cholesky factor of A.

    Args:
        moment: C, [d_ff, d_ff].
        ridge: the ridge, relative to the mean of C's diagonal.
        device: where to factor and to solve; the CPU does it if there is no room.
    """

    def __init__(self, moment: Tensor, ridge: float, device: torch.device) -> None:
        self._c = moment
        self._ridge = ridge
        self._attempts = _list_attempts(device)  # the first is the current one; those that failed are removed
        self._cholesky: _Cholesky | None = None  # of the current attempt; None: it is not made yet

    def solve(self, columns: Tensor) -> Tensor:
        """Return A^-1 B in float64, on the device of ``columns`` B [d_ff, n], which is in float64.

        An attempt that fails is removed, and the next one begins. The last attempt, which is in float64 on the CPU,
        returns or raises.
        """
        while True:
            attempt = self._attempts[0]
            try:
                solution = self._try_attempt(attempt, columns.to(attempt.device))
            except (RuntimeError, MemoryError) as error:
                if attempt.device == CPU or not is_memory_error(error):
                    raise
                log.debug("%s has no room for a matrix of size %d, so the CPU solves", attempt.device, len(self._c))
                # Only the CPU is left: where the device has no room for float32, it has none for float64.
                self._attempts = self._attempts[-1:]
                self._cholesky = None
                continue
            if solution is not None:
                return solution.to(columns.device)
            log.debug("a matrix of size %d is too ill-conditioned for a factor in float32", len(self._c))
            self._attempts = self._attempts[1:]  # the next one is in float64
            self._cholesky = None

    def _try_attempt(self, attempt: _Attempt, columns: Tensor) -> Tensor | None:
        """Return A^-1 B on the attempt's device; None if A is too ill-conditioned for float32."""
        if self._cholesky is None:
            self._cholesky = _make_cholesky(self._c, self._ridge, attempt)
        if self._cholesky is None:
            return None
        return self._cholesky.solve(columns, attempt.device)


def _make_cholesky(moment: Tensor, ridge: float, attempt: _Attempt) -> _Cholesky | None:
    """Factor A = C + ridge mean(diag C) I of ``moment`` C; None if float32 finds A not positive definite."""
    if attempt.device.type == "cuda":  # cuSOLVER takes memory of its own, which torch may keep for later tensors
        torch.cuda.empty_cache()
    # C is sent as it is, and converted there; it may be gigabytes.
    dtype = torch.float64 if attempt.in_float64 else torch.float32
    matrix = moment.to(attempt.device).to(dtype, copy=True)
    # The shift stays in float64: if it was rounded to float32, A would be another matrix.
    shift = ridge * matrix.diagonal().double().mean()
    matrix.diagonal().add_(shift)  # in place, so there is no second copy for the ridge
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed and attempt.in_float64:
        raise torch.linalg.LinAlgError("the matrix is not positive definite")  # type: ignore[attr-defined]
    if failed:
        return None
    lower = _offload_if_tight(lower)
    if attempt.in_float64:
        return _Cholesky(lower, shift, None)
    return _Cholesky(lower, shift, _offload_if_tight(moment.to(attempt.device)))


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


def _offload_if_tight(matrix: Tensor) -> Tensor:
    """Return the matrix on its device if as much memory again is free there, else in (pinned) main memory."""
    free = free_bytes(matrix.device)
    if free is None or free >= matrix.nbytes:
        return matrix
    log.debug("a matrix of %d MB is kept in main memory", matrix.nbytes / 1e6)
    if matrix.is_cuda:
        return matrix.cpu().pin_memory()
    return matrix.cpu()


def has_fast_float64(device: torch.device) -> bool:
    """Return whether a product in float64 on ``device`` takes at most 16 times as long as in float32.

    Both are timed for each factor: the eight small products take far less time than the factor itself.
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
