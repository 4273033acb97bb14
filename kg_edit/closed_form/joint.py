"""Writing many values under many keys at once: the closed forms of MEMIT, EMMET and AlphaEdit are one formula."""

from __future__ import annotations

import torch
from torch import Tensor

from kg_edit.errors import PatchError

_SMALLEST_PIVOT = 1e-6


def joint_directions(keys: Tensor, solved: Tensor, *, weight: float) -> Tensor:
    """M K (K^T M K + weight I)^-1, which is (weight I + M K K^T)^-1 M K: [d_ff, edits] in float64.

    With R [d, edits] the wanted changes of the values, the update of W [d, d_ff] is R times the result transposed:

    - MEMIT (arXiv 2210.07229, Eq. 14), M = C^-1, weight = lambda: R K^T (lambda C + K K^T)^-1, the least squares that
      weigh R against what other keys are answered.
    - EMMET (arXiv 2403.14236), M = C^-1, weight = 0 or little: every key is answered exactly, (W + D) K = W K + R.
    - AlphaEdit (arXiv 2410.02355), M = P, the projection on directions that no other key has.

    The smaller of the two systems is solved: that of size edits, or that of size d_ff.

    Args:
        keys: K, a column an edit, [d_ff, edits].
        solved: M K, [d_ff, edits], for a symmetric M without negative eigenvalues.
        weight: what is added to the diagonal.

    Raises:
        PatchError: the system has no solution that is a number: two edits have the same key.
    """
    keys, solved = keys.double(), solved.double()
    size, edits = keys.shape
    if edits > size:
        solution: Tensor = torch.linalg.solve_ex(solved @ keys.T + weight * _identity(keys, size), solved)[0]
        return solution  # not finite where there is none, which the caller sees
    lower = _cholesky(keys.T @ solved + weight * _identity(keys, edits))
    return torch.cholesky_solve(solved.T, lower).T


def _identity(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _cholesky(gram: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex((gram + gram.T) / 2)
    lower: Tensor = factor
    pivots = lower.diagonal()
    if failed or not pivots.min() > _SMALLEST_PIVOT * pivots.max():
        raise PatchError(
            f"the keys of these {len(gram)} edits depend on each other, or are no numbers, so no update answers all of "
            "them: is an edit there twice, or a subject with two facts? Edit those in turn, or relax the constraint"
        )
    return lower
