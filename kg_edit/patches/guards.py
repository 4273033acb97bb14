"""Guards against disabling edits: one rank-one update that is far too large breaks the model (Gupta et al. 2024).

`find_disabling` gives the reasons why edits of a patch look like disabling ones: an edit is compared with the other
edits of the same method, and with the norm of the weight. `refuse_disabling` raises an error for such edits, and
`SeenEdits.add_checked` does so for a sequence of patches, each compared with those before it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from kg_edit.errors import DisablingEditError
from kg_edit.patches.changes import Changes, change_norm, collect_changes, columns_by_edit, edit_norms

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch

MEDIANS = 4.0  # limit of an edit's size, in medians of the other edits (docs/patches.md)
SHARE = 1.0  # limit of an edit's size, as a share of the weight's own norm
_ENOUGH = 5  # the fewest other edits for which a median is meaningful


class _Sized(NamedTuple):
    """An edit's record, the norm of its change, and its method with the weights that its patch changes."""

    record: Mapping[str, Any]
    norm: float | None
    group: tuple[str, frozenset[str]]


def _median_of_others(values: list[float], own: float) -> float | None:
    """Return the median of the sorted ``values`` without one that is ``own``; None if too few are left."""
    count = len(values) - 1  # of the others
    if count < _ENOUGH:
        return None
    # The two middle positions among the others, which are the same one if their number is odd. Those at or after the
    # position of ``own`` are one further on in ``values``: in [1, 2, 3, 4, 5, 6] without 2, the middle of [1, 3, 4, 5,
    # 6] is at position 2, and it is the 4 at position 3 of ``values``. No copy without ``own`` is made: there may be
    # many thousand values, and each edit has its own median.
    position = bisect_left(values, own)
    lower = (count - 1) // 2
    upper = count // 2
    if lower >= position:
        lower += 1
    if upper >= position:
        upper += 1
    return (values[lower] + values[upper]) / 2


class SeenEdits:
    """The norms and division factors k . u of edits, sorted, by method and weights: what a new edit is compared with.

    A sequence of patches keeps one, so that the earlier edits are not measured again for each new one.
    """

    def __init__(self, patches: Iterable[Patch | Changes] = ()) -> None:
        self.norms = defaultdict[object, list[float]](list)
        self.division_factors = defaultdict[object, list[float]](list)
        for patch in patches:
            self.add(patch)

    def add(self, patch: Patch | Changes) -> list[_Sized]:
        """Add the edits of ``patch``, and return their sizes."""
        weights = frozenset(collect_changes(patch).factors)
        sized = []
        for record, norm in zip(patch.edits, edit_norms(patch), strict=True):
            edit = _Sized(record, norm, (record["method"], weights))
            if norm:  # an edit that changes nothing says nothing about the usual size
                insort(self.norms[edit.group], norm)
            factor = division_factor(record)
            if factor:
                insort(self.division_factors[edit.group], factor)
            sized.append(edit)
        return sized

    def add_checked(self, patch: Patch | Changes, model: LanguageModel | None = None) -> None:
        """Add the edits of ``patch``, and raise an error if one of them looks as if it would break the model.

        They are compared with the edits that were added before and with each other; ``model`` is as in
        `find_disabling`. If there is an error, no edit of ``patch`` is added.
        """
        sized = self.add(patch)  # before the comparison, because they are also compared with each other
        reasons = _find_reasons(patch, sized, self, model)
        if reasons:
            self._remove(sized)
            raise _disabling_error(patch, reasons)

    def _remove(self, sized: Iterable[_Sized]) -> None:
        """Remove edits that `add` has added."""
        for edit in sized:
            if edit.norm:
                self.norms[edit.group].remove(edit.norm)
            factor = division_factor(edit.record)
            if factor:
                self.division_factors[edit.group].remove(factor)


def find_disabling(
    patch: Patch | Changes, others: Iterable[Patch | Changes], model: LanguageModel | None = None
) -> tuple[str, ...]:
    """Return the reasons why edits of ``patch`` look as if they would break the model; empty if there are none.

    Args:
        patch: the patch to judge.
        others: patches whose edits are usual. The norm and the division factor k . u of an edit are compared with those
            of edits of the same method and the same weights, in this patch and in ``others``.
        model: the norm is also compared with that of the weight in this model, or else with that recorded in the patch.
    """
    seen = SeenEdits(others)
    sized = seen.add(patch)
    return _find_reasons(patch, sized, seen, model)


def refuse_disabling(
    patch: Patch | Changes, others: Iterable[Patch | Changes], model: LanguageModel | None = None
) -> None:
    """Raise an error if `find_disabling`, with the same arguments, finds a reason."""
    SeenEdits(others).add_checked(patch, model)


def _find_reasons(
    patch: Patch | Changes, edits: Iterable[_Sized], seen: SeenEdits, model: LanguageModel | None
) -> tuple[str, ...]:
    """Return what `find_disabling` does; ``edits`` are those of the patch, and ``seen`` has them and all others."""
    reasons = list[str]()
    for edit in edits:
        reasons += _compare_with_others(edit, seen)
    norms = collect_changes(patch).weight_norms
    if model is not None:
        norms = _norms_in(model, patch) or norms
    reasons += _compare_with_weights(patch, norms)
    return tuple(reasons)


def _norms_in(model: LanguageModel, patch: Patch | Changes) -> dict[str, float]:
    """Return the present norm |W| of each weight that a patch changes, by name; {} unless it is a `WeightPatch`.

    Anything else is compared with the norms that it records.
    """
    from kg_edit.patches.weight_patch import WeightPatch  # which imports torch

    if not isinstance(patch, WeightPatch):
        return {}
    return patch.weight_norms(model)


def _compare_with_others(edit: _Sized, seen: SeenEdits) -> list[str]:
    """Return why an edit is unlike the others that are ``seen``: its change is large, or its division factor small."""
    reasons = []
    name = edit.record["edit"]["id"]
    norm = edit.norm
    if norm:
        usual = _median_of_others(seen.norms[edit.group], norm)
        if usual is not None and norm > MEDIANS * usual:
            times = f"{norm / usual:.1f} times the other edits'"
            reasons.append(f"{name}: its change has the norm {norm:.3g}, {times}")
    factor = division_factor(edit.record)
    if factor:
        usual = _median_of_others(seen.division_factors[edit.group], factor)
        if usual is not None and factor * MEDIANS < usual:
            reasons.append(f"{name}: its division factor is {factor:.3g}, the other edits' median {usual:.3g}")
    return reasons


def _compare_with_weights(patch: Patch | Changes, norms: Mapping[str, float]) -> list[str]:
    """Return for each weight that an edit changes by more than `SHARE` of its norm the reason, which says so.

    ``norms`` has |W| by the weight's name. A weight that is not in it is not judged.
    """
    reasons = []
    changes = collect_changes(patch)
    by_edit = columns_by_edit(patch)
    for name, pair in changes.factors.items():
        norm = norms.get(name, 0.0)
        size, edit = _largest_change(pair, by_edit, changes.edits)
        if norm and size > SHARE * norm:
            # Shown rounded up to hundredths, and at least a hundredth above the limit, so that it never reads like the
            # limit itself. `round` comes first, so that 1.5000001 is not shown as 1.51.
            hundredths = ceil(round(100 * size / norm, 3))
            times = max(hundredths / 100, SHARE + 0.01)
            named = ""
            if edit:
                named = f"{edit}: "
            reasons.append(
                f"{named}the change of {name} is {times:.4g} times as large as the weight itself (limit {SHARE:g})"
            )
    return reasons


def _largest_change(
    pair: Any, by_edit: Sequence[tuple[int, ...]] | None, edits: Sequence[Mapping[str, Any]]
) -> tuple[float, str]:
    """Return the norm of the largest change that an edit makes of a weight, and the edit's id.

    ``pair`` has the factors of the weight's change, and ``by_edit`` the numbers of their columns for each edit; it is
    None if it is not known which columns are whose. Then, and if there is only one edit, the id is "".
    """
    if not by_edit:
        # All edits count as equal and orthogonal: each has |change| / sqrt(edits). A weight with r columns has at most
        # r edits; if the patch has more, the others are in other weights.
        count = max(1, min(len(edits), pair.left.shape[1]))
        return change_norm(pair) / count**0.5, ""
    sizes = [change_norm(pair, indices) for indices in by_edit]
    largest = max(sizes)
    if len(by_edit) == 1:
        return largest, ""
    return largest, str(edits[sizes.index(largest)]["edit"]["id"])


def _disabling_error(patch: Patch | Changes, reasons: tuple[str, ...]) -> DisablingEditError:
    """Return the error about a patch that has reasons not to be used."""
    # A method such as rome-kg writes an edit's facts under the same key, each over the earlier ones.
    facts = max((len(record.get("requests", ())) for record in patch.edits), default=0)
    fewer = ""
    if facts:
        fewer = f" (it has {facts} facts of the graph; fewer: --set statements=1 --set composed=0)"
    return DisablingEditError(
        f"the patch would probably break the model: {'; '.join(reasons)}. Leave that edit out, make its change "
        f"smaller{fewer}, or add it anyway with --force (force=True)",
        reasons,
    )


def division_factor(record: Mapping[str, Any]) -> float | None:
    """Return |k . u|, the divisor in a rank-one edit, as |m* - m| / |update|; None if the record lacks these.

    It is |k . u| for ROME, where u has the length 1. For R-ROME it is an estimate, because its update divides another
    residual, m* - W k*, by k* . u.
    """
    norms = record.get("norms", {})
    change: float | None = norms.get("change")
    update: float | None = norms.get("update")
    if not change or not update:
        return None
    return change / update
