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
from kg_edit.models.devices import exact
from kg_edit.patches import join_provenances
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch

SUBTRACTED = "subtracted"  # the field of a provenance with what was subtracted


def subtract_patch(expert: Patch, anti: Patch, *, strength: float = 1.0, extract: bool = True) -> WeightPatch:
    """Subtract the anti-expert's patch from the expert's.

    Args:
        expert: a patch of weights; the result lists its edits. What it alone changes stays as it is.
        anti: a patch of weights.
        strength: the factor of what is subtracted.
        extract: whether to extract the rest of the anti-expert first, and subtract only that, so that the common part
            is kept; else all of the anti-expert is subtracted. With it, nothing is subtracted in a row (or a whole
            weight) that only the anti-expert changes: where e is 0, s is the direction of a, so all of a is common.
    """
    if not isinstance(expert, WeightPatch):
        raise _not_of_weights(expert, "expert")
    if not isinstance(anti, WeightPatch):
        raise _not_of_weights(anti, "anti-expert")
    if expert.fingerprint and anti.fingerprint and expert.fingerprint != anti.fingerprint:
        raise PatchMismatchError(
            f"the expert is for the model {expert.fingerprint}, the anti-expert for {anti.fingerprint}; "
            "train both on one model"
        )
    factors = dict(expert.factors)
    for name, other in anti.factors.items():
        nothing = Factors(left=other.left[:, :0], right=other.right[:, :0])  # a change of rank 0
        own = factors.get(name, nothing)
        if own.shape != other.shape:
            raise PatchMismatchError(
                f"the expert's change of {name} is {own.shape}, the anti-expert's {other.shape}; train both on one "
                "model"
            )
        if extract:
            factors[name] = less_extracted(own, other, strength=strength)
        else:
            factors[name] = less_all(own, other, strength=strength)
    provenance = {**join_provenances(expert.provenance, anti.provenance), "edits": [*expert.edits]}
    note = {"strength": strength, "extract": extract, "anti_expert": [edit.get("edit", {}) for edit in anti.edits]}
    return WeightPatch(factors=factors, provenance={**provenance, SUBTRACTED: note})


def _not_of_weights(patch: Patch, role: str) -> PatchError:
    """Return the error for a patch of another kind in the place of the expert or the anti-expert."""
    return PatchError(
        f"the {role} is a patch of the {patch.changed_in_words}; expected a patch of weights, such as lora's, or a "
        "PEFT adapter"
    )


def less_all(expert: Factors, anti: Factors, *, strength: float) -> Factors:
    """Return the factors of e - strength a for the changes e and a of one weight; the ranks of both add up."""
    left = torch.cat([expert.left, -strength * anti.left.to(expert.left)], 1)
    right = torch.cat([expert.right, anti.right.to(expert.right)], 1)
    return Factors(left=left, right=right)


def less_extracted(expert: Factors, anti: Factors, *, strength: float) -> Factors:
    """Return the factors of e - strength rest(a) for the changes e and a of one weight; the ranks of both add up.

    What is subtracted is rest(a), which is extracted from a by leaving out the common part. A row that is 0 in one of
    the changes has no direction, so s is the direction of the other one. If e and a are opposite, they have nothing in
    common, and all of a is subtracted.
    """
    # e = e_out e_in^T and a = a_out a_in^T, with e_out and a_out [out, rank], e_in and a_in [in, rank]
    e_out = exact(expert.left)
    e_in = exact(expert.right)
    a_out = exact(anti.left)
    a_in = exact(anti.right)
    e_square = _multiply_rows(e_out, e_in, e_out, e_in).clamp(min=0)  # |e|^2
    a_square = _multiply_rows(a_out, a_in, a_out, a_in).clamp(min=0)  # |a|^2
    e_dot_a = _multiply_rows(e_out, e_in, a_out, a_in)
    per_e = _inverse_root(e_square)  # 1 / |e|
    per_a = _inverse_root(a_square)  # 1 / |a|
    # With s = per_e e + per_a a, as above; all of these are [out], a number for each row
    s_square = per_e**2 * e_square + per_a**2 * a_square + 2 * per_e * per_a * e_dot_a  # |s|^2
    a_dot_s = per_e * e_dot_a + per_a * a_square
    share = torch.where(s_square > 1e-12, a_dot_s / s_square.clamp(min=1e-12), 0.0)  # 0 if e and a are opposite

    # rest(a) = a - share s, so each row of the result is
    #     e - strength rest(a) = (1 + strength share per_e) e - strength (1 - share per_a) a
    of_expert = 1 + strength * share * per_e
    of_anti = -strength * (1 - share * per_a)
    lefts = torch.cat([of_expert[:, None] * e_out, of_anti[:, None] * a_out], 1)
    return Factors(left=lefts.float(), right=torch.cat([e_in, a_in], 1).float())


def _multiply_rows(left: Tensor, right: Tensor, other_left: Tensor, other_right: Tensor) -> Tensor:
    """Return the dot products, [out], of each row of left right^T with the same row of other_left other_right^T.

    Row i of a product is left_i right^T, so its dot product with the other row i is

        left_i (right^T other_right) other_left_i^T

    where the bracket is a small matrix [rank, other rank], and the products [out, in] are never computed.
    """
    dots: Tensor = ((left @ (right.T @ other_right)) * other_left).sum(1)
    return dots


def _inverse_root(square: Tensor) -> Tensor:
    """Return 1 / sqrt(square), and 0 where the square is 0."""
    return torch.where(square > 0, square.clamp(min=1e-300).rsqrt(), 0.0)
