"""A low-rank change of one weight: W' = W + left right^T, with left [out, rank] and right [in, rank].

`Factors` holds both factors. The changes of one weight are summed in two ways, which differ only in rounding:

- ``a + b`` for two changes that were made one after the other, as when patches are added;
- `Factors.join` for any number of changes that were computed together.

Both put the factors side by side, so that the ranks add up: a_l a_r^T + b_l b_r^T = [a_l b_l] [a_r b_r]^T. A sum whose
rank would exceed that of the weight is stored as one dense change instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.patches import is_identity

_SAFE = 0.25  # share of the largest number of a type; a change below it can't make a weight infinite


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Factors:
    """A low-rank change of a weight [out, in]: ``left`` [out, rank] times ``right`` [in, rank] transposed."""

    left: Tensor
    right: Tensor

    @classmethod
    def dense(cls, change: Tensor) -> Self:
        """Return factors of a dense change [out, in]: one factor is the identity matrix, so nothing is rounded."""
        rows, columns = change.shape
        if rows <= columns:
            return cls(left=torch.eye(rows, dtype=change.dtype, device=change.device), right=change.T.contiguous())
        return cls(left=change, right=torch.eye(columns, dtype=change.dtype, device=change.device))

    @classmethod
    def join(cls, changes: Sequence[Factors]) -> Factors:
        """Return the sum of changes of one weight; it is multiplied once, if the ranks exceed that of the weight."""
        joined = cls(
            left=torch.cat([change.left for change in changes], 1),  # [out, sum of ranks]
            right=torch.cat([change.right for change in changes], 1),  # [in, sum of ranks]
        )
        if joined.rank > min(joined.shape):
            return cls.dense(joined.product)
        return joined

    def __add__(self, other: Factors) -> Factors:
        """Return the sum of two changes of one weight, on the device of the first."""
        if self.shape != other.shape:
            raise PatchMismatchError(
                f"can't add changes of weights of the shapes {self.shape} and {other.shape}; give patches of one model"
            )
        other = Factors(left=other.left.to(self.left.device), right=other.right.to(self.right.device))
        if self.rank + other.rank > min(self.shape):
            return Factors.dense(self.product + other.product)
        return Factors.join([self, other])

    def __repr__(self) -> str:
        return f"Factors({self.shape[0]} x {self.shape[1]}, rank {self.rank})"

    @property
    def rank(self) -> int:
        """The number of columns of ``left`` and of ``right``."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight that is changed."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def product(self) -> Tensor:
        """The change as a full matrix left right^T, [out, in]; an identity matrix is not multiplied."""
        if is_identity(self.left):
            return self.right.T
        if is_identity(self.right):
            return self.left
        return self.left @ self.right.T

    @property
    def norm(self) -> float:
        """The Frobenius norm of the change: |left right^T|^2 is the sum of (left^T left) * (right^T right)."""
        left = self.left.detach().cpu().double()
        right = self.right.detach().cpu().double()
        square = ((left.T @ left) * (right.T @ right)).sum()  # the products are [rank, rank]
        return float(square.clamp(min=0).sqrt())

    @property
    def bound(self) -> float:
        """An upper bound of the entries of the product: rank times the largest entries of both factors."""
        if not self.left.numel() or not self.right.numel():
            return 0.0
        return self.rank * float(self.left.abs().max()) * float(self.right.abs().max())

    @property
    def is_finite(self) -> bool:
        """Whether no number of the factors, and none of their product, is infinite or NaN."""
        if not torch.isfinite(self.left).all() or not torch.isfinite(self.right).all():
            return False
        if self.bound < _SAFE * torch.finfo(torch.float32).max:
            return True
        # The whole product takes as much memory as the weight, so it is only computed where the bound is too large
        return bool(torch.isfinite(self.float32_on(self.left.device).product).all())

    def float32_on(self, device: torch.device) -> Factors:
        """Return the same factors on ``device``, in float32."""
        return Factors(left=self.left.to(device).float(), right=self.right.to(device).float())

    def added_to(self, weight: Tensor, *, name: str) -> Tensor:
        """Return W + left right^T, computed in float32 and rounded to the type of ``weight`` [out, in]."""
        changed = (weight + self.float32_on(weight.device).product).to(weight.dtype)
        safe = self.bound < _SAFE * torch.finfo(weight.dtype).max  # false for NaN, too
        if not safe and not torch.isfinite(changed).all():
            raise PatchError(
                f"the change makes {name} infinite or NaN in {weight.dtype}; use float32, or a smaller change"
            )
        return changed

    def columns(self, indices: Sequence[int]) -> Factors:
        """Return the factors with the columns at ``indices`` only: the part of the change that some edits have."""
        chosen = list(indices)
        return Factors(left=self.left[:, chosen].contiguous(), right=self.right[:, chosen].contiguous())

    def reduced(self, most: int) -> tuple[Factors, float]:
        """Return the nearest change of at most the rank ``most``, and the share of the squared norm that it has.

        With left = Q_l R_l and right = Q_r R_r, the product is Q_l (R_l R_r^T) Q_r^T. So its singular values are those
        of the small matrix R_l R_r^T [rank, rank], where ``rank`` is that of this change. The nearest change has the
        ``most`` largest of them (Eckart and Young).
        """
        if most >= self.rank:
            return self, 1.0
        q_left, r_left = torch.linalg.qr(self.left.double())
        q_right, r_right = torch.linalg.qr(self.right.double())
        u, singular_values, v_transposed = torch.linalg.svd(r_left @ r_right.T)
        left = q_left @ u[:, :most] * singular_values[:most]  # [out, most]
        right = q_right @ v_transposed[:most].T  # [in, most]
        squares = singular_values.square()
        total = squares.sum()
        share = 1.0  # also for a change of zero
        if total > 0:
            share = float(squares[:most].sum() / total)
        return Factors(left=left.to(self.left.dtype), right=right.to(self.right.dtype)), share
