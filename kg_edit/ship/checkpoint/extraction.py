"""Extract the patch between two checkpoints of one model: W' - W of every weight that differs, at a low rank.

An edited checkpoint of any origin becomes a patch, which can be applied, merged, exported, and removed again. The
difference D of a weight is the edit plus the rounding of W' to its type, which has full rank. A singular value counts
if it is above what rounding alone can have. The largest singular value of independent errors with the variances s_ij^2
is about max_i sqrt(sum_j s_ij^2) + max_j sqrt(sum_i s_ij^2) (Bandeira and van Handel, 2016). A number is rounded by at
most half a unit in its last place (ulp), so s_ij^2 = ulp(W'_ij)^2 / 12, and more for the change, computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from kg_common.progress import Bar
from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.checkpoint.stored import Checkpoint
from kg_edit.version import __version__

METHOD = "extracted"
_MARGIN = 1.1  # above the largest singular value of rounding alone, which is an asymptotic bound
_FIRST = 16  # singular values that are computed first
_OVERSAMPLED = 8  # random vectors more than singular values
_ITERATIONS = 4
_ROWS = 256  # rows of a weight whose rounding is estimated together, which takes several numbers for each of theirs


@dataclass(frozen=True, eq=False, kw_only=True)
class Difference:
    """The difference of one weight, split into its leading part and a rest.

    Attributes:
        name: the weight's name in the loaded model.
        factors: the leading part, left [out, rank] and right [in, rank].
        norm: of the whole difference.
        kept: the share of its squared norm that the factors have.
        noise: the largest singular value that rounding alone could have.
    """

    name: str
    factors: Factors
    norm: float
    kept: float
    noise: float


@torch.no_grad()
def extract_patch(
    base: Checkpoint,
    edited: Checkpoint,
    *,
    rank: int | None = None,
    edits: Sequence[Edit] = (),
    progress: bool = True,
) -> WeightPatch:
    """Return the patch that turns one checkpoint into the other.

    Args:
        base: the checkpoint of the unedited model.
        edited: the checkpoint of the edited model.
        rank: of every changed weight; None: as many singular values as are above the rounding of the weight's type.
        edits: the facts that the edited model is known to have, so that a ledger can list and check them. They form
            one batch: which part of the change belongs to which edit is not known.
        progress: show a bar of the tensors.

    Returns:
        The patch; its provenance has the rank, the norm and the kept share of every weight.

    Raises:
        PatchMismatchError: the checkpoints have other tensors, or another shape of one.
        PatchError: nothing differs; or a tensor differs that is not a matrix, which a patch can't hold.
    """
    differences = list[Difference]()
    others = list[str]()
    for name, before, after in changed_tensors(base, edited, title="extract", progress=progress):
        if before.dim() == 2:
            differences.append(split(name, before, after, rank=rank))
        else:
            others.append(name)
    if others:
        raise PatchError(
            f"{len(others)} tensors that are no matrices differ ({', '.join(others[:3])}), which a patch can't hold; "
            "keep the edited checkpoint itself"
        )
    if not differences:
        raise PatchError(f"{edited.folder} has the weights of {base.folder}, so there is nothing to extract")
    factors = {difference.name: difference.factors for difference in differences}
    return WeightPatch(factors=factors, provenance=_write_provenance(base, edited, differences, edits))


def changed_tensors(
    base: Checkpoint, edited: Checkpoint, *, title: str, progress: bool = True
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, W and W' of each tensor that differs; matrices as [out, in]. One pair is in memory at a time.

    A bar with the ``title`` counts the tensors of the checkpoint, if ``progress`` is set.

    Raises:
        PatchMismatchError: the checkpoints have other tensors, or another shape of one.
    """
    for name in Bar(_list_shared_names(base, edited), title=title, unit="tensor", shown=progress):
        before = base.find(name).read()
        after = edited.find(name).read()
        if before.shape != after.shape:
            raise PatchMismatchError(
                f"{name} is {list(before.shape)} in {base.folder}, {list(after.shape)} in the other"
            )
        if torch.equal(before, after.to(before.dtype)):
            continue
        if base.is_transposed(name):
            before = before.T
            after = after.T
        yield name, before, after


def split(name: str, before: Tensor, after: Tensor, *, rank: int | None = None) -> Difference:
    """Split W' - W [out, in] by its singular values; see `extract_patch`."""
    difference = after.double()
    difference -= before  # in place: a large weight takes hundreds of MB
    return split_difference(name, difference, rank=rank, noise=rounding_noise(after, difference))


def split_difference(name: str, difference: Tensor, *, noise: float, rank: int | None = None) -> Difference:
    """Split a difference [out, in] (float64) by its singular values, of which those up to ``noise`` are rounding."""
    full_rank = min(difference.shape)
    width = min(full_rank, rank or _FIRST)  # singular values that are computed
    left, values, right = leading_svd(difference, width)  # [out, width], [width], [in, width]
    kept = width
    if rank is None:
        # Compute more of them until the smallest one is rounding's.
        while width < full_rank and float(values[-1]) > _MARGIN * noise:
            width = min(full_rank, 4 * width)
            left, values, right = leading_svd(difference, width)
        kept = max(1, int((values > _MARGIN * noise).sum()))
    squared_norm = float(torch.linalg.vector_norm(difference)) ** 2
    factors = Factors(
        left=(left[:, :kept] * values[:kept]).float().contiguous(),  # U S
        right=right[:, :kept].float().contiguous(),  # V
    )
    return Difference(
        name=name,
        factors=factors,
        norm=math.sqrt(squared_norm),
        kept=float(values[:kept].square().sum()) / squared_norm,
        noise=noise,
    )


def leading_svd(matrix: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [m, width], S [width] descending and V [n, width] of the largest singular values.

    The range finder of Halko, Martinsson and Tropp (2011, algorithm 4.4): the products of the matrix with random
    vectors span its leading part, and a few iterations sharpen it. The draw is always the same.
    """
    draw = torch.Generator().manual_seed(0)
    columns = min(min(matrix.shape), width + _OVERSAMPLED)
    basis = matrix @ torch.randn(matrix.shape[1], columns, generator=draw, dtype=matrix.dtype)
    basis, _ = torch.linalg.qr(basis)  # [m, columns], orthonormal
    for _ in range(_ITERATIONS):
        back, _ = torch.linalg.qr(matrix.T @ basis)  # [n, columns]
        basis, _ = torch.linalg.qr(matrix @ back)
    # The SVD of the small matrix [columns, n]; its left vectors are coordinates in the basis.
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left[:, :width], values[:width], right[:width].T


def is_above_rounding(difference: Difference) -> bool:
    """Return whether a difference has a singular value that rounding alone does not explain."""
    return float(difference.factors.left[:, 0].norm()) > _MARGIN * difference.noise


def rounding_noise(weight: Tensor, difference: Tensor) -> float:
    """Return the largest singular value that rounding alone can have.

    Args:
        weight: W' [m, n], rounded to its own type.
        difference: W' - W. An editor computes the change in float32, as a product and a sum, and rounds it twice.
    """
    largest_row = 0.0
    column_sums = torch.zeros(weight.shape[1], dtype=torch.float64)
    for start in range(0, weight.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        weight_units = _measure_units(weight[rows])
        change_units = _measure_units(difference[rows].float())
        variances = (weight_units.square() + 2 * change_units.square()) / 12
        largest_row = max(largest_row, float(variances.sum(dim=1).max()))
        column_sums += variances.sum(dim=0)
    return math.sqrt(largest_row) + math.sqrt(float(column_sums.max()))


def _measure_units(numbers: Tensor) -> Tensor:
    """Return the unit in the last place of each number x of a type: eps 2^floor(log2 |x|)."""
    exponents = torch.frexp(numbers.float()).exponent  # |x| = f 2^exponent with f in [1/2, 1)
    return torch.finfo(numbers.dtype).eps * torch.exp2(exponents.double() - 1)


def _list_shared_names(base: Checkpoint, edited: Checkpoint) -> list[str]:
    """Return the names of all parameters, which both checkpoints must have.

    Raises:
        PatchMismatchError: they are of different families or sizes.
    """
    names = [name for name, _ in base.modules.named_parameters()]
    others = [name for name, _ in edited.modules.named_parameters()]
    if names != others:
        raise PatchMismatchError(
            f"{base.folder} and {edited.folder} are of other families or sizes; give two checkpoints of one model"
        )
    return names


def _write_provenance(
    base: Checkpoint, edited: Checkpoint, differences: Sequence[Difference], edits: Sequence[Edit]
) -> dict[str, Any]:
    """Return what the patch records: the base it belongs to, and how much of each difference it has."""
    weights = {}
    for difference in differences:
        weights[difference.name] = {
            "rank": difference.factors.rank,
            "norm": round(difference.norm, 6),
            "kept": round(difference.kept, 6),
            "noise": round(difference.noise, 6),
        }
    records = []
    for edit in edits:
        fields = edit.model_dump(mode="json", exclude_defaults=True)
        records.append({"edit": fields, "method": METHOD, "batch": len(edits)})
    return {
        "model": {"name": str(base.folder), "fingerprint": base.fingerprint()},
        "versions": {"kg_edit": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "methods": [{"name": METHOD, "config": {}, "edited": str(edited.folder), "weights": weights}],
        "edits": records,
    }
