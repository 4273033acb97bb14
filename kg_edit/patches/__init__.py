"""Patches: what edits change in a model, as objects, as files, and as arrays for reports.

This file has what tensors (`factors`, `weight_patch`) and arrays (`changes`) have in common: names, checks, and how
provenances are joined. It imports neither torch nor numpy, so that a listing of patches takes no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kg_edit.errors import PatchError

KEY = "key/"  # prefix of the state with the keys of a weight, [in, facts]; the weight's name follows
STATE = "state/"  # prefix of a method's own tensors in a file


def is_identity(factor: Any) -> bool:
    """Return whether a factor is the identity matrix, which marks the change as dense (`Factors.dense`).

    A matrix [1, 1] with a one does not count, because it is also the factor of a single edit.
    """
    rows, width = factor.shape
    if rows != width or rows == 1:
        return False
    has_ones = bool((factor.diagonal() == 1).all())
    # The ones of the diagonal already add up to ``rows``, so with this sum every other entry is zero.
    return has_ones and float(abs(factor).sum()) == rows


def describe_ranks(factors: Mapping[str, Any]) -> str:
    """Return the names of changed weights, and the rank of each change: the number of columns of ``left``."""
    return ", ".join(f"{name}: rank {pair.left.shape[1]}" for name, pair in factors.items())


def pair_factors(path: object, tensors: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the factors of each weight in the file of a `WeightPatch`, by the weight's name, sorted.

    Args:
        path: of the file.
        tensors: what the file has, as tensors or arrays: ``NAME.left`` [out, rank], ``NAME.right`` [in, rank], and the
            state.
    """
    stored_names = [name for name in tensors if not name.startswith(STATE)]
    pairs = dict[str, tuple[Any, Any]]()
    for name in sorted({stored_name.rpartition(".")[0] for stored_name in stored_names}):
        left = tensors.get(f"{name}.left")
        right = tensors.get(f"{name}.right")
        if left is None or right is None:
            raise PatchError(f"the patch {path} lacks a factor of {name}; make the patch again")
        if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[1]:
            shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
            raise PatchError(f"the patch {path} has factors of {name} that don't fit: {shapes}; make it again")
        pairs[name] = (left, right)
    return pairs


def join_provenances(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Join two provenances: the edits of both in order, each method once, and the entries of both ``weight_norms``.

    Any other field has the value of ``first``, or of ``second`` if ``first`` lacks it.
    """
    methods = [*first.get("methods", ())]
    methods += [method for method in second.get("methods", ()) if method not in methods]
    both = {**second, **first, "methods": methods}
    both["edits"] = [*first.get("edits", ()), *second.get("edits", ())]
    norms = {**second.get("weight_norms", {}), **first.get("weight_norms", {})}
    if norms:
        both["weight_norms"] = norms
    return both
