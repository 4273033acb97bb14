"""Ext-Sub (Hu et al., AAAI 2024, arXiv 2308.08090): an expert less what an anti-expert has of its own.

Two changes of one weight [out, in] are compared row by row, e of the expert and a of the anti-expert. What they have in
common lies along s, and is kept; the rest of a is taken away, ``strength`` times:

    s = e / |e| + a / |a|        rest(a) = a - (a . s) s / |s|^2        result = e - strength rest(a)

A row of the result is a sum of the same rows of both changes, so that its factors have the rank of both together, and
no matrix [out, in] is ever made.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.patches.base import Patch, joined
from kg_edit.patches.weight_patch import Factors, WeightPatch


def subtracted(expert: Patch, anti: Patch, *, strength: float = 1.0, extract: bool = True) -> WeightPatch:
    """The expert's patch less the anti-expert's; without ``extract`` the whole of it is taken away.

    Weights that the expert alone changes are left as they are in it. The edits listed are the expert's.

    Raises:
        PatchError: one of them is not a patch of weights.
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
    """The factors of e - strength rest(a) for the changes e and a of one weight; rank: of both together.

    A row that is 0 in one of them has no direction: there s is that of the other. Where e and a point away from each
    other nothing is in common, and all of a is taken away.
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
    """The dot products of equal rows of left right^T and of other_left other_right^T: [out]."""
    products: Tensor = ((left @ (right.T @ other_right)) * other_left).sum(1)
    return products


def _less(expert: Factors, anti: Factors, strength: float) -> Factors:
    left = torch.cat([expert.left, -strength * anti.left.to(expert.left)], 1)
    return Factors(left=left, right=torch.cat([expert.right, anti.right.to(expert.right)], 1))


def _nothing(like: Factors) -> Factors:
    """A change of rank 0 of the same weight."""
    return Factors(left=like.left[:, :0], right=like.right[:, :0])


def _of_weights(patch: Patch, role: str) -> WeightPatch:
    if not isinstance(patch, WeightPatch):
        raise PatchError(
            f"the {role} is a patch of the {patch.kind}; expected one of weights, such as lora makes, or a PEFT adapter"
        )
    return patch


def _check_shapes(name: str, expert: Factors, anti: Factors) -> None:
    if expert.shape != anti.shape:
        raise PatchMismatchError(
            f"the expert's change of {name} is {expert.shape}, the anti-expert's {anti.shape}; train both on one model"
        )
