"""Guards against disabling edits: one rank-one update that is far too large breaks a model (Gupta et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from kg_edit.errors import PatchError
from kg_edit.ledger.sizes import edit_norms, weight_shares
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch

MEDIANS = 4.0  # times the median of the other edits; docs/patches.md says what was measured
SHARE = 1.0  # of the weight's own norm
_ENOUGH = 5  # other edits, or a median means nothing


def disabling(patch: Patch, others: Iterable[Patch], model: LanguageModel | None = None) -> tuple[str, ...]:
    """Why edits of ``patch`` look like ones that break a model; empty if none does.

    Compared are an edit's norm and division factor k . u, from its record, with those of the same method's other edits,
    in this patch and in ``others``, and with ``model`` its norm with the weights' own.

    Raises:
        PatchMismatchError: the patch is for another model.
    """
    known = [pair for other in others for pair in _sized(other)]
    mine = _sized(patch)
    found = []
    for place, (record, norm) in enumerate(mine):
        rest = [pair for pair in [*known, *mine[:place], *mine[place + 1 :]] if pair[0]["method"] == record["method"]]
        found += _against(record, norm, rest)
    if model is not None and isinstance(patch, WeightPatch):
        found += [
            f"the change of {name} is {share:.2g} times as large as the weight itself (limit {SHARE:g})"
            for name, share in weight_shares(patch, model).items()
            if share > SHARE
        ]
    return tuple(found)


def refuse_disabling(patch: Patch, others: Iterable[Patch], model: LanguageModel | None = None) -> None:
    """Refuse a patch of which `disabling` has something to say.

    Raises:
        PatchError: it has.
        PatchMismatchError: the patch is for another model.
    """
    if reasons := disabling(patch, others, model):
        raise PatchError(
            "the patch looks as if it would break the model: " + "; ".join(reasons) + ". Leave that edit out, make it "
            "with less force, or add it all the same: --force (force=True)"
        )


_Sized = tuple[Mapping[str, Any], float | None]


def _sized(patch: Patch) -> list[_Sized]:
    return list(zip(patch.edits, edit_norms(patch), strict=True))


def _against(record: Mapping[str, Any], norm: float | None, rest: Sequence[_Sized]) -> list[str]:
    name, found = record["edit"]["id"], []
    norms = [other for _, other in rest if other is not None]
    if norm is not None and len(norms) >= _ENOUGH and norm > MEDIANS * median(norms):
        found.append(f"{name}: its change has the norm {norm:.3g}, {norm / median(norms):.1f} times the other edits'")
    factor = division_factor(record)
    factors = [other for record, _ in rest if (other := division_factor(record))]
    if factor and len(factors) >= _ENOUGH and factor * MEDIANS < median(factors):
        found.append(f"{name}: its division factor is {factor:.3g}, the other edits' median {median(factors):.3g}")
    return found


def division_factor(record: Mapping[str, Any]) -> float | None:
    """|k . u|, by which a rank-one edit's change of the value is divided: |m* - m| / |update|; None if not known."""
    norms = record.get("norms", {})
    change, update = norms.get("change"), norms.get("update")
    return change / update if change and update else None
