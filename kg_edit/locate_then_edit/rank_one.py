"""The closed form that writes one value under one key: W + left right^T (GLAME Eq. 7-8, ROME's appendix A)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.held import HeldKeys, held_solve
from kg_edit.patches.weight_patch import Factors

KeyVariant = Literal["rome", "r-rome"]
_SMALLEST_COSINE = 1e-4


def rank_one_update(
    *,
    change: Tensor,
    mean_key: Tensor,
    bare_key: Tensor,
    covariance: Covariance,
    weight: Tensor,
    variant: KeyVariant = "rome",
    others: Tensor | None = None,
    hold: float = 0.0,
) -> Factors:
    """The update with which the module's output is m* for the bare key (``rome``), or for the mean key (``r-rome``).

    With u = C^-1 k* / ||C^-1 k*||: W + r u^T, r = (m* - W k) / (k . u), where k is the bare prompt's key (ROME's
    published form; then m* - W k = ``change``, the bias cancelling) or k* itself (R-ROME, arXiv 2403.07175).

    Args:
        change: m* - m in the bare prompt, [d].
        mean_key: k*, the mean over the contexts, [d_ff].
        bare_key: the key of the bare prompt, [d_ff].
        covariance: C = E[k k^T] of the module's inputs, [d_ff, d_ff].
        weight: W, [d, d_ff].
        variant: which key is used in the residual and in the denominator.
        others: keys whose outputs should change little (`closed_form.held`), [n, d_ff].
        hold: the weight of ``others``, where C has weight 1.

    Raises:
        PatchError: k is almost orthogonal to u, so that the update would explode, or the update is not finite.
    """
    direction = _direction(mean_key, covariance, others, hold)
    right = direction / direction.norm()
    key, residual = bare_key.double(), change.double()
    if variant == "r-rome":
        key = mean_key.double()
        residual = residual - weight.double() @ (key - bare_key.double())
    factor = key @ right
    if abs(factor) < _SMALLEST_COSINE * key.norm():
        raise PatchError(
            f"the edit's key is orthogonal to its update direction (cosine {factor / key.norm():.1e}), so the update "
            "would be far too large; use key='r-rome', other contexts, or a covariance from more text"
        )
    left = residual / factor
    factors = Factors(left=left.float()[:, None], right=right.float()[:, None])
    if not factors.is_finite:
        raise PatchError("the update has values that are not finite; lower the learning rate or use float32")
    return factors


def _direction(mean_key: Tensor, covariance: Covariance, others: Tensor | None, hold: float) -> Tensor:
    """C^-1 k*, [d_ff]; with ``hold``, C also contains the keys ``others``."""
    if others is None or not hold:
        return covariance.solve(mean_key)
    held = HeldKeys.none(len(mean_key)).plus(others)
    return held_solve(covariance, mean_key[:, None], held, weight=hold)[:, 0]
