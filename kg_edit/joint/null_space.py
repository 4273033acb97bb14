"""The directions of keys that a model hardly uses, in which an update changes nothing else (AlphaEdit, Eq. 9-11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.errors import CovarianceError


@dataclass(frozen=True, eq=False, kw_only=True)
class NullSpace:
    """P, the projection on what is orthogonal to ``used`` [d_ff, directions], whose columns are orthonormal."""

    used: Tensor

    @property
    def free(self) -> int:
        """How many directions are left."""
        return self.used.shape[0] - self.used.shape[1]

    def project(self, keys: Tensor) -> Tensor:
        """P K for ``keys`` K [d_ff, edits], in float64 on their device."""
        keys, used = keys.double(), self.used.to(keys.device)
        return keys - used @ (used.T @ keys)


def null_space(covariance: Covariance, *, threshold: float, relative: bool = True) -> NullSpace:
    """What C's eigenvectors with eigenvalues below ``threshold`` span.

    ``relative``: the threshold counts in mean eigenvalues (trace(C) / d_ff), as models differ in scale by orders of
    magnitude; the published one is absolute. C is taken without its ridge.

    Raises:
        CovarianceError: no direction is free.
    """
    values, vectors = torch.linalg.eigh(covariance.moment.double())
    bound = threshold * (float(values.mean()) if relative else 1.0)
    found = NullSpace(used=vectors[:, values >= bound])
    if not found.free:
        raise CovarianceError(
            f"no eigenvalue of the covariance {covariance.id} is below {bound:.2e} (the least is {values[0]:.2e}), so "
            "there is no direction to edit in; give a higher threshold"
        )
    return found
