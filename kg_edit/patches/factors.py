"""A low-rank change of a weight, as two thin matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Factors:
    """A low-rank change of a weight [out, in]: ``left`` [out, rank] times ``right`` [in, rank] transposed."""

    left: Tensor
    right: Tensor

    @classmethod
    def dense(cls, change: Tensor) -> Self:
        """A change [out, in] of full rank as it stands: one factor is the identity, so nothing is rounded."""
        rows, columns = change.shape
        if rows <= columns:
            return cls(left=torch.eye(rows, dtype=change.dtype, device=change.device), right=change.T.contiguous())
        return cls(left=change, right=torch.eye(columns, dtype=change.dtype, device=change.device))

    @property
    def rank(self) -> int:
        """The number of columns."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def product(self) -> Tensor:
        """The change itself, [out, in]."""
        return self.left @ self.right.T

    @property
    def is_finite(self) -> bool:
        """Whether every number is one."""
        return bool(torch.isfinite(self.left).all() and torch.isfinite(self.right).all())


def stacked(first: Factors, second: Factors) -> Factors:
    """The sum of two changes, where the first is: ranks add, but not beyond what a matrix of that shape can have."""
    second = Factors(left=second.left.to(first.left.device), right=second.right.to(first.right.device))
    if first.rank + second.rank > min(first.shape):
        return Factors.dense(first.product + second.product)
    return Factors(left=torch.cat([first.left, second.left], 1), right=torch.cat([first.right, second.right], 1))
