"""The closed form that writes many values under many keys in one layer: MEMIT, EMMET and AlphaEdit (Eq. 9-11).

All three use one formula, `joint_directions`; they differ in a matrix M and a weight. `null_space` is AlphaEdit's
matrix: the projection onto directions that the model's keys hardly use, where an update changes little else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.errors import CovarianceError, PatchError

_SMALLEST_PIVOT = 1e-6


def joint_directions(keys: Tensor, solved: Tensor, *, weight: float, first: int | None = None) -> Tensor:
    """M K (K^T M K + weight I)^-1, which is (weight I + M K K^T)^-1 M K: [d_ff, edits] in float64.

    R [d, edits] are the wanted changes of the values. The update of W [d, d_ff] is R times the result transposed:

    - MEMIT (arXiv 2210.07229, Eq. 14), M = C^-1, weight = lambda: R K^T (lambda C + K K^T)^-1, the least squares that
      balance R against the unchanged outputs for other keys.
    - EMMET (arXiv 2403.14236), M = C^-1, weight = 0 or small: the output for every key is exact, (W + D) K = W K + R.
    - AlphaEdit (arXiv 2410.02355), M = P, the projection onto directions that other keys hardly use.

    The smaller of the two systems is solved, of size edits or of size d_ff.

    Args:
        keys: K, one column per edit, [d_ff, edits].
        solved: M K, [d_ff, edits], for a symmetric M without negative eigenvalues.
        weight: the number added to the diagonal.
        first: only return the columns of the first so many edits, [d_ff, first].

    Raises:
        PatchError: the system is singular, because two edits have the same key, or a number is not finite.
    """
    keys, solved = keys.double(), solved.double()
    size, edits = keys.shape
    if edits > size:
        system = solved @ keys.T + weight * _identity(keys, size)
        solution: Tensor = torch.linalg.solve_ex(system, solved[:, :first])[0]
        return solution  # not finite if the system is singular; the caller checks this
    lower = _cholesky(keys.T @ solved + weight * _identity(keys, edits))
    return torch.cholesky_solve(solved.T, lower).T[:, :first]


def _identity(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _cholesky(gram: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex((gram + gram.T) / 2)
    lower: Tensor = factor
    pivots = lower.diagonal()
    if failed or not pivots.min() > _SMALLEST_PIVOT * pivots.max():
        raise PatchError(
            f"the keys of these {len(gram)} edits are linearly dependent or not finite, so no update fits all of "
            "them. Make duplicate edits and edits of the same subject in turn, or relax the constraint"
        )
    return lower


@dataclass(frozen=True, eq=False, kw_only=True)
class NullSpace:
    """P, the projection onto the orthogonal complement of ``used`` [d_ff, directions]; its columns are orthonormal."""

    used: Tensor

    @property
    def free(self) -> int:
        """The number of directions that P keeps: d_ff minus the used ones."""
        return self.used.shape[0] - self.used.shape[1]

    def project(self, keys: Tensor) -> Tensor:
        """P K for ``keys`` K [d_ff, edits], in float64 on their device."""
        keys, used = keys.double(), self.used.to(keys.device)
        return keys - used @ (used.T @ keys)


def null_space(covariance: Covariance, *, threshold: float, relative: bool = True) -> NullSpace:
    """The projection onto the span of C's eigenvectors with eigenvalues below ``threshold``.

    With ``relative``, the threshold is a multiple of the mean eigenvalue (trace(C) / d_ff), because models differ in
    scale by orders of magnitude; the published threshold is absolute. C is used without its ridge.

    Raises:
        CovarianceError: no direction is free.
    """
    values, vectors = torch.linalg.eigh(covariance.moment.double())
    bound = threshold * (float(values.mean()) if relative else 1.0)
    found = NullSpace(used=vectors[:, values >= bound])
    if not found.free:
        raise CovarianceError(
            f"no eigenvalue of the covariance {covariance.id} is below {bound:.2e} (the smallest is {values[0]:.2e}), "
            "so there is no direction to edit in; give a higher threshold"
        )
    return found
