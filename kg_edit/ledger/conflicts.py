"""Edits that are in each other's way, and edits so large that they may break the model.

`conflicts` finds edits about the same fact, and edits written under nearly the same key. `edit_norms` and
`weight_shares` say how large each edit's change is, from its factors alone. `disabling` and `refuse_disabling` guard
against disabling edits: one rank-one update that is far too large breaks a model (Gupta et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.ledger.entries import EditPosition, Entry
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch


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
    """The factors of a change restricted to the columns at ``places``."""
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


KEY = "key/"  # the state in which methods keep keys, [in, facts], with the weight's name behind it
COSINE = 0.6  # of two edits' keys; docs/patches.md says what was measured

ConflictKind = Literal["contradiction", "duplicate", "near keys"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """Two standing edits, the earlier one first, and what is between them; ``cosine`` of their keys if known."""

    kind: ConflictKind
    first: Entry
    second: Entry
    cosine: float | None = None

    def __str__(self) -> str:
        one, two = self.first, self.second
        match self.kind:
            case "contradiction":
                return (
                    f"{one.name} and {two.name} edit one fact to {one.edit.target_new!r} and to "
                    f"{two.edit.target_new!r}; remove one of them"
                )
            case "duplicate":
                return f"{one.name} and {two.name} make the same fact say {two.edit.target_new!r}; one is enough"
        return (
            f"{one.name} and {two.name} are written under nearly the same key (cosine {self.cosine:.2f}), so the "
            "later one may overwrite the earlier; run patch check"
        )


def conflicts(entries: Sequence[Entry], patches: Mapping[int, Patch]) -> tuple[Conflict, ...]:
    """All pairs of ``entries`` that are in each other's way; ``patches`` are the steps that they are part of."""
    about_one = {(one, two): kind for one, two in combinations(entries, 2) if (kind := _same_fact(one.edit, two.edit))}
    near = {(one, two): cosine for one, two, cosine in _near(entries, patches)}
    pairs = dict.fromkeys([*about_one, *near])
    return tuple(
        Conflict(kind=about_one.get(pair, "near keys"), first=pair[0], second=pair[1], cosine=near.get(pair))
        for pair in pairs
    )


def contradictions(entries: Sequence[Entry]) -> tuple[Conflict, ...]:
    """Pairs of ``entries`` that want different targets for one fact: however good the edits, only one can be said."""
    return tuple(conflict for conflict in conflicts(entries, {}) if conflict.kind == "contradiction")


def _same_fact(one: Edit, two: Edit) -> ConflictKind | None:
    if not (_agree(one.subject_id, two.subject_id, one.subject, two.subject) and _same_relation(one, two)):
        return None
    same = _agree(one.target_new_id, two.target_new_id, one.target_new, two.target_new)
    return "duplicate" if same else "contradiction"


def _same_relation(one: Edit, two: Edit) -> bool:
    if one.prompt == two.prompt:
        return True
    if one.relation_id and two.relation_id:
        return one.relation_id == two.relation_id
    return bool(one.relation and two.relation and one.relation.casefold() == two.relation.casefold())


def _agree(one_id: str | None, two_id: str | None, one: str, two: str) -> bool:
    return one_id == two_id if one_id and two_id else one.casefold() == two.casefold()


def _near(entries: Sequence[Entry], patches: Mapping[int, Patch]) -> Iterator[tuple[Entry, Entry, float]]:
    """Pairs whose keys have a cosine beyond `COSINE` in one weight at least."""
    most: dict[tuple[int, int], float] = {}
    for places, keys in _keys(entries, patches).values():
        units = keys / keys.norm(dim=0).clamp(min=1e-12)
        cosines = torch.triu(units.T @ units, diagonal=1).abs()
        for row, column in (cosines > COSINE).nonzero().tolist():
            pair = places[row], places[column]
            most[pair] = max(most.get(pair, 0.0), float(cosines[row, column]))
    for (row, column), cosine in sorted(most.items()):
        yield entries[row], entries[column], round(cosine, 4)


def _keys(entries: Sequence[Entry], patches: Mapping[int, Patch]) -> dict[str, tuple[list[int], Tensor]]:
    """For each weight the edits (their places in ``entries``) and the keys they were written under, [in, edits].

    A key is in the patch's state, or else the direction of the input that the change reacts to.
    """
    places, keys = dict[str, list[int]](), dict[str, list[Tensor]]()
    row = {entry.place: index for index, entry in enumerate(entries)}
    for step, patch in patches.items():
        own = columns(patch)
        if own is None or not isinstance(patch, WeightPatch):
            continue
        rows = [row[EditPosition(step, record["edit"]["id"])] for record in patch.edits]
        firsts = [mine[0] for mine in own]  # the edit itself; further facts are about other subjects
        for name, pair in patch.factors.items():
            places.setdefault(name, []).extend(rows)
            keys.setdefault(name, []).append(patch.state.get(f"{KEY}{name}", pair.right)[:, firsts].float())
    return {name: (places[name], torch.cat(found, 1)) for name, found in keys.items()}


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
