"""C = E[k k^T], the uncentred second moment of a module's inputs, and solving with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kg_edit.errors import CovarianceError


class SecondMoment:
    """A running sum of k k^T: products in float32 a batch at a time, the sum in float64."""

    def __init__(self, size: int) -> None:
        self.total = torch.zeros(size, size, dtype=torch.float64)
        self.count = 0

    def add(self, keys: Tensor) -> None:
        """Add ``keys`` [..., size]."""
        rows = keys.detach().reshape(-1, keys.shape[-1]).float()
        self.total += (rows.T @ rows).double().cpu()
        self.count += rows.shape[0]

    def mean(self) -> Tensor:
        """E[k k^T], [size, size] in float64.

        Raises:
            CovarianceError: nothing was added.
        """
        if self.count == 0:
            raise CovarianceError("the second moment of no keys is undefined; give a corpus that holds text")
        return self.total / self.count


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
        moment = self.moment.double()
        shift = self.ridge * moment.diagonal().mean()
        factor, failed = torch.linalg.cholesky_ex(moment + shift * torch.eye(len(moment), dtype=moment.dtype))
        if failed:
            raise CovarianceError(
                f"the covariance {self.id} from {self.tokens} tokens is not positive definite; "
                f"use at least {10 * len(moment)} tokens, or a ridge above {self.ridge:g}"
            )
        lower: Tensor = factor
        return lower

    def solve(self, key: Tensor) -> Tensor:
        """C^-1 k in float64 for ``key`` [d_ff].

        Raises:
            CovarianceError: C is not positive definite.
        """
        column = key.double().to(self._cholesky.device)[:, None]
        solution: Tensor = torch.cholesky_solve(column, self._cholesky)
        return solution[:, 0].to(key.device)
