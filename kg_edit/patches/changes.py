"""The weight changes of a patch as numpy arrays, to compute the size of each edit without torch.

`collect_changes` takes them from a patch in memory, `read_changes` from a file, and `sum_changes` adds them.
`columns_by_edit` finds the columns of the factors that belong to each edit, `edit_norms` computes the norm of each
edit's change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kg_edit.patches import KEY, STATE, describe_ranks, is_identity, join_provenances, pair_factors

if TYPE_CHECKING:
    from kg_edit.patches.base import Patch

Array = NDArray[Any]


class LowRank(NamedTuple):
    """A low-rank change of a weight [out, in]: ``left`` [out, rank] times ``right`` [in, rank] transposed."""

    left: Array
    right: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Changes:
    """The factors of the changed weights and their stored keys, by weight name, and the patch's kind and provenance.

    A patch that changes no weights has no factors. The kind is that of the file (`Patch.file_kind`), or "stack" for a
    `PatchStack` in memory, of whose parts no factors are collected.
    """

    provenance: Mapping[str, Any]
    kind: str = "weights"
    factors: Mapping[str, LowRank] = field(default_factory=dict)
    keys: Mapping[str, Array] = field(default_factory=dict)

    @property
    def edits(self) -> tuple[Mapping[str, Any], ...]:
        """A record of each edit, in the order in which they were made."""
        return tuple(self.provenance.get("edits", ()))

    @property
    def is_empty(self) -> bool:
        """Whether there are no factors: no weight is changed, or this is of a stack."""
        return not self.factors

    @property
    def summary(self) -> str:
        """The names of the changed weights, and the rank of each change, as in `WeightPatch`."""
        return describe_ranks(self.factors)

    @property
    def weight_norms(self) -> Mapping[str, float]:
        """The norms |W| of the changed weights before the change, by name; empty if the patch does not record them."""
        norms: Mapping[str, float] = self.provenance.get("weight_norms", {})
        return norms


def collect_changes(patch: Patch | Changes) -> Changes:
    """Return the changes of a patch in memory; a `Changes` is returned unchanged.

    Of a `PatchStack` these are its provenance alone, even if a part changes weights: the columns of one part's factors
    could not be matched with the edits of all parts. Call this for each of `Patch.parts` instead.
    """
    if isinstance(patch, Changes):
        return patch
    factors = dict[str, LowRank]()
    for name, pair in getattr(patch, "factors", {}).items():
        factors[name] = LowRank(_to_array(pair.left), _to_array(pair.right))
    keys = dict[str, Array]()
    for name, tensor in getattr(patch, "state", {}).items():
        if name.startswith(KEY):
            keys[name.removeprefix(KEY)] = _to_array(tensor)
    kind = getattr(patch, "file_kind", "stack")  # a `PatchStack` has no file
    return Changes(provenance=patch.provenance, kind=kind, factors=factors, keys=keys)


def read_changes(path: str | Path) -> Changes:
    """Return the changes of a patch's file."""
    from kg_edit.patches.container import read_arrays  # the format of files, which a patch in memory does not need

    metadata, arrays = read_arrays(path)
    factors = dict[str, LowRank]()
    if metadata["kind"] == "weights":
        for name, (left, right) in pair_factors(path, arrays).items():
            factors[name] = LowRank(left, right)
    keys = dict[str, Array]()
    key_prefix = f"{STATE}{KEY}"
    for stored_name, key in sorted(arrays.items()):
        if stored_name.startswith(key_prefix):
            keys[stored_name.removeprefix(key_prefix)] = key
    return Changes(provenance=metadata["provenance"], kind=metadata["kind"], factors=factors, keys=keys)


def sum_changes(changes: Iterable[Changes]) -> Changes | None:
    """Return the sum of changes of weights, without their keys: the factors side by side, as in `Factors.join`.

    The numbers are those of `kg_edit.patches.weight_patch.sum_patches`, which needs torch.

    Returns:
        None if factors side by side are not the sum: a part is not a change of weights, parts are for different
        models, or the sum's rank exceeds that of a weight, so that the factors have to be multiplied.
    """
    factors = dict[str, LowRank]()
    provenance = dict[str, Any]()
    fingerprints = set[str]()
    for part in changes:
        if part.kind != "weights":
            return None
        fingerprint = part.provenance.get("model", {}).get("fingerprint")
        if fingerprint:
            fingerprints.add(fingerprint)
        provenance = join_provenances(provenance, part.provenance)
        for name, change in part.factors.items():
            if name not in factors:
                factors[name] = change
                continue
            joined = _join(factors[name], change)
            if joined is None:
                return None
            factors[name] = joined
    if len(fingerprints) > 1:
        return None
    return Changes(provenance=provenance, factors=factors)


def _join(first: LowRank, second: LowRank) -> LowRank | None:
    """Return the sum of two changes of a weight [out, in]; None for other shapes or a rank that is too large."""
    rows, columns = len(first.left), len(first.right)
    if (len(second.left), len(second.right)) != (rows, columns):
        return None
    left = np.concatenate([first.left, second.left], 1)  # [out, sum of ranks]
    right = np.concatenate([first.right, second.right], 1)  # [in, sum of ranks]
    if left.shape[1] > min(rows, columns):
        return None
    return LowRank(left, right)


def _to_array(tensor: Any) -> Array:
    """Return a tensor [rows, columns] of any type and device, as a float32 array."""
    array: Array = tensor.detach().float().cpu().numpy()
    return array


def columns_by_edit(patch: Patch | Changes) -> tuple[tuple[int, ...], ...] | None:
    """Return the columns of the factors that belong to each edit; None if the columns can't be told apart by edit.

    Closed-form methods write one column per fact: the edit itself, and each of the ``requests`` in its record.
    """
    factors: Mapping[str, Any] = getattr(patch, "factors", {})
    if not factors:  # no weight is changed
        return None
    if any(record.get("shared") for record in patch.edits):  # several edits have one change together (Ext-Sub)
        return None
    by_edit = []
    start = 0
    for record in patch.edits:
        stop = start + 1 + len(record.get("requests", ()))
        by_edit.append(tuple(range(start, stop)))
        start = stop
    for pair in factors.values():
        if is_identity(pair.left) or is_identity(pair.right):  # a dense change, in whose factors no column is an edit's
            return None
        if pair.left.shape[1] != start:  # more or fewer columns than facts, as LoRA writes
            return None
    return tuple(by_edit)


def edit_norms(patch: Patch | Changes) -> tuple[float | None, ...]:
    """Return the Frobenius norm of each edit's change over all weights; None for each if `columns_by_edit` is None."""
    groups = columns_by_edit(patch)
    changes = collect_changes(patch)
    if groups is None:
        return (None,) * len(changes.edits)
    norms = list[float]()
    for group in groups:
        squares = [change_norm(pair, group) ** 2 for pair in changes.factors.values()]
        norms.append(sum(squares) ** 0.5)
    return tuple(norms)


def change_norm(pair: Any, indices: tuple[int, ...] | None = None) -> float:
    """Return the Frobenius norm of left right^T, from the factors' Gram matrices: ``sum((L^T L) * (R^T R))^1/2``.

    With ``indices``, only these columns of the factors count.
    """
    left = _select_columns(pair.left, indices)
    right = _select_columns(pair.right, indices)
    square = ((left.T @ left) * (right.T @ right)).sum()
    return float(max(square, 0.0) ** 0.5)


def _select_columns(factor: Any, indices: tuple[int, ...] | None) -> Array:
    """Return columns of a factor in float64; a method's factors are tensors, which may be on an accelerator."""
    if indices is not None:  # first, as copies of the whole factor for each edit would take quadratic time
        factor = factor[:, list(indices)]
    if hasattr(factor, "cpu"):
        factor = factor.cpu()
    return np.asarray(factor, dtype=np.float64)
