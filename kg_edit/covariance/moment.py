"""C = E[k k^T], the uncentred second moment of a module's inputs, and solving with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kg_edit.errors import CovarianceError

_BLOCK = 256  # rows of k k^T that one product gives
_ROWS = 2048  # keys that wait until they are added together: enough for a matmul at full speed


class SecondMoment:
    """A running sum of k k^T, of which only the upper block triangle is computed and kept.

    Keys are gathered into products of some thousand rows in float32; the sum of the products is float64. Its memory
    depends on ``size`` alone. ``total`` is flat: the rows 0 to 255 of the matrix from column 0 on, the rows 256 to 511
    from column 256 on, and so on, each block as it lies.
    """

    def __init__(self, size: int, total: Tensor | None = None, count: int = 0) -> None:
        self.size, self.count = size, count
        self.total = torch.zeros(flat_size(size), dtype=torch.float64) if total is None else total
        self._waiting: list[Tensor] = []

    def add(self, keys: Tensor) -> None:
        """Add ``keys`` [..., size]; they must not be changed until they are flushed."""
        rows = keys.detach().reshape(-1, self.size)
        self.count += len(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Bring what still waits into ``total``."""
        if not self._waiting:
            return
        rows = (self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)).float()
        self._waiting = []
        if self.total.device != rows.device and rows.device.type == "cuda":  # the sum lives where the keys are
            self.total = self.total.to(rows.device)
        for start, block in _blocks(self.total, self.size):
            product = rows[:, start : start + _BLOCK].T @ rows[:, start:]
            block += product.to(block.device)

    def mean(self) -> Tensor:
        """E[k k^T], [size, size] in float64.

        Raises:
            CovarianceError: nothing was added.
        """
        if self.count == 0:
            raise CovarianceError("the second moment of no keys is undefined; give a corpus that holds text")
        self.flush()
        return square(self.total / self.count, self.size)


def square(flat: Tensor, size: int) -> Tensor:
    """The symmetric matrix [size, size] whose upper block triangle is ``flat``, as in `SecondMoment`."""
    matrix = flat.new_empty(size, size)
    for start, block in _blocks(flat, size):
        matrix[start : start + _BLOCK, start:] = block
        matrix[start:, start : start + _BLOCK] = block.T
        corner = block[:, : len(block)].triu()  # a product is symmetric only up to rounding
        matrix[start : start + _BLOCK, start : start + _BLOCK] = corner + corner.triu(1).T
    return matrix


def flat_size(size: int) -> int:
    """How many numbers the upper block triangle of a matrix [size, size] has."""
    return sum(min(_BLOCK, size - start) * (size - start) for start in range(0, size, _BLOCK))


def _blocks(flat: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Views into ``flat``: for each block its first row, and its rows [<= 256, size - first row]."""
    starts = range(0, size, _BLOCK)
    shapes = [(min(_BLOCK, size - start), size - start) for start in starts]
    parts = flat.split([rows * columns for rows, columns in shapes])
    return [(start, part.view(shape)) for start, part, shape in zip(starts, parts, shapes, strict=True)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Covariance:
    """C of one module, with the ridge that keeps it invertible.

    ``ridge`` is relative: C + ridge * mean(diag C) * I is what is solved with. ``id`` names its content.
    """

    moment: Tensor
    tokens: int
    ridge: float
    id: str

    @cached_property
    def _cholesky(self) -> Tensor:
        moment = self.moment.to(torch.float64, copy=True)  # of a large model gigabytes: no second one for the ridge
        moment.diagonal().add_(self.ridge * moment.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(moment)
        if failed:
            raise CovarianceError(
                f"the covariance {self.id} from {self.tokens} tokens is not positive definite; "
                f"use at least {10 * len(moment)} tokens, or a ridge above {self.ridge:g}"
            )
        lower: Tensor = factor
        return lower

    def solve(self, key: Tensor) -> Tensor:
        """C^-1 k in float64 for ``key`` [d_ff], or for each column of [d_ff, keys].

        Raises:
            CovarianceError: C is not positive definite.
        """
        columns = key.double().to(self._cholesky.device).reshape(len(key), -1)
        solution: Tensor = torch.cholesky_solve(columns, self._cholesky)
        return solution.reshape(key.shape).to(key.device)
