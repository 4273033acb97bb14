"""Ext-Sub (Hu et al., AAAI 2024, arXiv 2308.08090): subtract an anti-expert from an expert, except their common part.

The changes of one weight [out, in] are compared row by row: e is a row of the expert, a the same row of the
anti-expert. Their common part lies along s and is kept. The rest of a is subtracted, ``strength`` times:

    s = e / |e| + a / |a|        rest(a) = a - (a . s) s / |s|^2        result = e - strength rest(a)

Each row of the result is a linear combination of the same rows of both changes. So the result's factors have the sum of
both ranks, and no matrix [out, in] is ever computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.patches.base import Patch, joined
from kg_edit.patches.weight_patch import Factors, WeightPatch


def subtracted(expert: Patch, anti: Patch, *, strength: float = 1.0, extract: bool = True) -> WeightPatch:
    """Subtract the anti-expert's patch from the expert's. With ``extract`` false, the common part is subtracted too.

    Weights that only the expert changes keep the expert's change. The result lists the expert's edits.

    Raises:
        PatchError: one of the patches is not a patch of weights.
        PatchMismatchError: they are for different models, or their changes have different shapes.
    """
    first, second = _of_weights(expert, "expert"), _of_weights(anti, "anti-expert")
    if first.fingerprint and second.fingerprint and first.fingerprint != second.fingerprint:
        raise PatchMismatchError(
            f"the expert is for the model {first.fingerprint}, the anti-expert for {second.fingerprint}; "
            "train both on one model"
        )
    factors = dict(first.factors)
    for name, other in second.factors.items():
        own = factors.get(name) or _nothing(other)
        _check_shapes(name, own, other)
        factors[name] = less_extracted(own, other, strength=strength) if extract else _less(own, other, strength)
    provenance = {**joined(first.provenance, second.provenance), "edits": [*first.edits]}
    said = {"strength": strength, "extract": extract, "anti_expert": [edit.get("edit", {}) for edit in second.edits]}
    return WeightPatch(factors=factors, provenance={**provenance, "subtracted": said})


def less_extracted(expert: Factors, anti: Factors, *, strength: float) -> Factors:
    """The factors of e - strength rest(a) for the changes e and a of one weight; the ranks of both add up.

    A row that is 0 in one of the changes has no direction, so s is the direction of the other one. If e and a are
    opposite, they have nothing in common, and all of a is subtracted.
    """
    left, right = (pair.left.double() for pair in (expert, anti))
    own, other = (pair.right.double() for pair in (expert, anti))
    squares = torch.stack([_products(left, own, left, own), _products(right, other, right, other)]).clamp(min=0)
    across = _products(left, own, right, other)
    one, two = (torch.where(square > 0, square.clamp(min=1e-300).rsqrt(), 0.0) for square in squares)
    length = one**2 * squares[0] + two**2 * squares[1] + 2 * one * two * across  # |s|^2
    along = one * across + two * squares[1]  # a . s
    share = torch.where(length > 1e-12, along / length.clamp(min=1e-12), 0.0)
    kept, taken = 1 + strength * share * one, -strength * (1 - share * two)
    lefts = torch.cat([kept[:, None] * left, taken[:, None] * right], 1)
    return Factors(left=lefts.float(), right=torch.cat([expert.right, anti.right.to(expert.right)], 1))


def _products(left: Tensor, right: Tensor, other_left: Tensor, other_right: Tensor) -> Tensor:
    """The dot products, [out], of each row of left right^T with the same row of other_left other_right^T."""
    products: Tensor = ((left @ (right.T @ other_right)) * other_left).sum(1)
    return products


def _less(expert: Factors, anti: Factors, strength: float) -> Factors:
    left = torch.cat([expert.left, -strength * anti.left.to(expert.left)], 1)
    return Factors(left=left, right=torch.cat([expert.right, anti.right.to(expert.right)], 1))


def _nothing(like: Factors) -> Factors:
    """A change of rank 0, with the shape and device of ``like``."""
    return Factors(left=like.left[:, :0], right=like.right[:, :0])


def _of_weights(patch: Patch, role: str) -> WeightPatch:
    if not isinstance(patch, WeightPatch):
        raise PatchError(
            f"the {role} is a patch of the {patch.kind}; expected a patch of weights, such as lora's, or a PEFT adapter"
        )
    return patch


def _check_shapes(name: str, expert: Factors, anti: Factors) -> None:
    if expert.shape != anti.shape:
        raise PatchMismatchError(
            f"the expert's change of {name} is {expert.shape}, the anti-expert's {anti.shape}; train both on one model"
        )
