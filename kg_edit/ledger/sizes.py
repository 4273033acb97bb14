"""How strong the edits of a patch are: norms of their changes, from the factors alone."""

from __future__ import annotations

import torch

from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch


def columns(patch: Patch) -> tuple[tuple[int, ...], ...] | None:
    """Which columns of the factors are each edit's; None where they are nobody's, as in a dense change.

    Closed-form methods write one column a fact: the edit itself, and the further ``requests`` of its record.
    """
    if not isinstance(patch, WeightPatch) or not patch.factors:
        return None
    found, start = [], 0
    for record in patch.edits:
        stop = start + 1 + len(record.get("requests", ()))
        found.append(tuple(range(start, stop)))
        start = stop
    return tuple(found) if all(pair.rank == start for pair in patch.factors.values()) else None


def edit_norms(patch: Patch) -> tuple[float | None, ...]:
    """The Frobenius norm of each edit's change, over all weights; None where a change is not one edit's."""
    own = columns(patch)
    if own is None or not isinstance(patch, WeightPatch):
        return (None,) * len(patch.edits)
    return tuple(
        sum(change_norm(chosen(pair, places)) ** 2 for pair in patch.factors.values()) ** 0.5 for places in own
    )


def chosen(pair: Factors, places: tuple[int, ...]) -> Factors:
    """Some columns of a change."""
    rows = list(places)
    return Factors(left=pair.left[:, rows].contiguous(), right=pair.right[:, rows].contiguous())


def change_norm(pair: Factors) -> float:
    """The Frobenius norm of left right^T, by the factors' Gram matrices: ``sum((L^T L) * (R^T R))^1/2``."""
    left, right = pair.left.double(), pair.right.double()
    return float(((left.T @ left) * (right.T @ right)).sum().clamp(min=0).sqrt())


@torch.no_grad()
def weight_shares(patch: WeightPatch, model: LanguageModel) -> dict[str, float]:
    """|change| / |W| of each weight: the strongest edit's where the factors tell, else the mean edit's.

    The mean edit's is the whole patch's divided by the root of the number of edits.

    Raises:
        PatchMismatchError: the patch is for another model.
    """
    own, shares = columns(patch), dict[str, float]()
    for name, module in patch.modules(model).items():
        pair = patch.factors[name]
        if own:
            most = max(change_norm(chosen(pair, places)) for places in own)
        else:
            most = change_norm(pair) / max(1, len(patch.edits)) ** 0.5
        shares[name] = most / max(float(weight_matrix(module).float().norm()), 1e-12)
    return shares
