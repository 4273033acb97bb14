"""Edits so large that they may break the model: one rank-one update that is far too large does (Gupta et al. 2024).

`disabling` says why edits of a patch look like such ones, from their sizes: against those of the same method's other
edits, and against the weight's own norm, which a patch notes or the model at hand has. `refuse_disabling` stops them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from kg_edit.errors import PatchError
from kg_edit.patches.changes import Changes, change_norm, changes_of, columns, edit_norms

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch

MEDIANS = 4.0  # times the median of the other edits; docs/patches.md says what was measured
SHARE = 1.0  # of the weight's own norm
_ENOUGH = 5  # other edits, or a median means nothing


def weight_norms(patch: Patch, model: LanguageModel) -> dict[str, float]:
    """|W| of each weight that a patch changes, as the model has it now; empty for a patch that changes none.

    Raises:
        PatchMismatchError: the patch is for another model.
    """
    from kg_edit.models.language_model import weight_matrix
    from kg_edit.patches.weight_patch import WeightPatch

    if not isinstance(patch, WeightPatch):
        return {}
    return {name: float(weight_matrix(found).detach().float().norm()) for name, found in patch.modules(model).items()}


def with_weight_norms(patch: Patch, model: LanguageModel) -> Patch:
    """The patch, which also notes |W| of the weights that it changes, so that its size can be judged without a model.

    Raises:
        PatchMismatchError: the patch is for another model.
    """
    from kg_edit.patches.weight_patch import WeightPatch

    if not isinstance(patch, WeightPatch) or patch.is_empty:
        return patch
    norms = {name: round(norm, 4) for name, norm in weight_norms(patch, model).items()}
    return replace(patch, provenance={**patch.provenance, "weight_norms": norms})


def disabling(
    patch: Patch | Changes, others: Iterable[Patch | Changes], model: LanguageModel | None = None
) -> tuple[str, ...]:
    """Why edits of ``patch`` look like ones that break a model; empty if none does.

    Compared are an edit's norm and division factor k . u, from its record, with those of the same method's other edits
    of the same weights, in this patch and in ``others``; and its norm with the weights' own: those of ``model``, else
    those that the patch notes, if it does.

    Raises:
        PatchMismatchError: the patch is for another model.
    """
    known = [pair for other in others for pair in _sized(other)]
    mine = _sized(patch)
    found = []
    for place, one in enumerate(mine):
        others_too = [*known, *mine[:place], *mine[place + 1 :]]
        found += _against(one, [other for other in others_too if _is_like(other, one)])
    changes = changes_of(patch)
    norms = weight_norms(patch, model) if model is not None and not isinstance(patch, Changes) else {}
    return (*found, *_beyond(changes, norms or changes.weight_norms))


def refuse_disabling(
    patch: Patch | Changes, others: Iterable[Patch | Changes], model: LanguageModel | None = None
) -> None:
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


class _Sized(NamedTuple):
    """An edit's record, the norm of its change, and the names of the weights that its patch changes."""

    record: Mapping[str, Any]
    norm: float | None
    weights: frozenset[str]


def _sized(patch: Patch | Changes) -> list[_Sized]:
    weights = frozenset(changes_of(patch).factors)
    return [_Sized(record, norm, weights) for record, norm in zip(patch.edits, edit_norms(patch), strict=True)]


def _is_like(other: _Sized, one: _Sized) -> bool:
    """Whether two edits' sizes can be compared: of one method, in the same layers."""
    return other.record["method"] == one.record["method"] and other.weights == one.weights


def _against(one: _Sized, rest: Sequence[_Sized]) -> list[str]:
    record, norm = one.record, one.norm
    name, found = record["edit"]["id"], []
    norms = [other.norm for other in rest if other.norm is not None]
    if norm is not None and len(norms) >= _ENOUGH and norm > MEDIANS * median(norms):
        found.append(f"{name}: its change has the norm {norm:.3g}, {norm / median(norms):.1f} times the other edits'")
    factor = division_factor(record)
    factors = [its for other in rest if (its := division_factor(other.record))]
    if factor and len(factors) >= _ENOUGH and factor * MEDIANS < median(factors):
        found.append(f"{name}: its division factor is {factor:.3g}, the other edits' median {median(factors):.3g}")
    return found


def _beyond(changes: Changes, norms: Mapping[str, float]) -> Iterator[str]:
    """The weights that an edit changes by more than `SHARE` of their norm: the strongest, else the mean edit.

    The mean edit's norm is the whole patch's divided by the root of the number of edits.
    """
    own = columns(changes)
    for name, pair in changes.factors.items():
        if not (norm := norms.get(name)):
            continue
        if own:
            size, who = max((change_norm(pair, places), place) for place, places in enumerate(own))
            named = f"{changes.edits[who]['edit']['id']}: " if len(own) > 1 else ""
        else:
            size, named = change_norm(pair) / max(1, len(changes.edits)) ** 0.5, ""
        if size > SHARE * norm:
            times = f"{size / norm:.2g} times as large as the weight itself (limit {SHARE:g})"
            yield f"{named}the change of {name} is {times}"


def division_factor(record: Mapping[str, Any]) -> float | None:
    """|k . u|, by which a rank-one edit's change of the value is divided: |m* - m| / |update|; None if not known."""
    norms = record.get("norms", {})
    change, update = norms.get("change"), norms.get("update")
    return change / update if change and update else None
