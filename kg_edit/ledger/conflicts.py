"""Find conflicts between edits: edits of the same fact, and edits that were written under nearly the same key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from kg_edit.edits.edit import Edit
from kg_edit.ledger.entries import EditPosition, Entry
from kg_edit.patches.changes import Array, Changes, columns

COSINE = 0.6  # of two edits' keys; docs/patches.md has the measurements

ConflictKind = Literal["contradiction", "duplicate", "near keys"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """Two standing edits in conflict, the earlier one first; ``cosine`` of their keys if these are near, else None."""

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
                return f"{one.name} and {two.name} both edit one fact to {two.edit.target_new!r}; one is enough"
        return (
            f"{one.name} and {two.name} are written under nearly the same key (cosine {self.cosine:.2f}), so the "
            "later edit may overwrite the earlier one; run kg-edit patch check"
        )


def conflicts(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> tuple[Conflict, ...]:
    """All pairs of ``entries`` in conflict; ``changes`` are the changes of their steps."""
    about_one = {(one, two): kind for one, two in combinations(entries, 2) if (kind := _same_fact(one.edit, two.edit))}
    near = {(one, two): cosine for one, two, cosine in _near(entries, changes)}
    pairs = dict.fromkeys([*about_one, *near])
    return tuple(
        Conflict(kind=about_one.get(pair, "near keys"), first=pair[0], second=pair[1], cosine=near.get(pair))
        for pair in pairs
    )


def contradictions(entries: Sequence[Entry]) -> tuple[Conflict, ...]:
    """Pairs of ``entries`` with different targets for one fact, of which the model can say only one."""
    return tuple(conflict for conflict in conflicts(entries, {}) if conflict.kind == "contradiction")


def _same_fact(one: Edit, two: Edit) -> ConflictKind | None:
    if not (_agree(one.subject_id, two.subject_id, one.subject, two.subject) and _same_relation(one, two)):
        return None
    if set(one.forms).isdisjoint(two.forms):  # in plain text and in chat form: one does not reach the other
        return None
    if not _agree(one.target_new_id, two.target_new_id, one.target_new, two.target_new):
        return "contradiction"
    needless = set(one.forms) <= set(two.forms) or set(two.forms) <= set(one.forms)
    return "duplicate" if needless else None


def _same_relation(one: Edit, two: Edit) -> bool:
    if one.prompt == two.prompt:
        return True
    if one.relation_id and two.relation_id:
        return one.relation_id == two.relation_id
    return bool(one.relation and two.relation and one.relation.casefold() == two.relation.casefold())


def _agree(one_id: str | None, two_id: str | None, one: str, two: str) -> bool:
    return one_id == two_id if one_id and two_id else one.casefold() == two.casefold()


def _near(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> Iterator[tuple[Entry, Entry, float]]:
    """Yield pairs whose keys have an absolute cosine above `COSINE` in at least one weight."""
    most: dict[tuple[int, int], float] = {}
    for places, keys in _keys(entries, changes).values():
        units = keys / np.linalg.norm(keys, axis=0).clip(min=1e-12)
        cosines = abs(np.triu(units.T @ units, k=1))
        for row, column in np.argwhere(cosines > COSINE).tolist():
            pair = places[row], places[column]
            most[pair] = max(most.get(pair, 0.0), float(cosines[row, column]))
    for (row, column), cosine in sorted(most.items()):
        yield entries[row], entries[column], round(cosine, 4)


def _keys(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> dict[str, tuple[list[int], Array]]:
    """For each weight: the places of the edits in ``entries``, and the keys under which they were written, [in, edits].

    The key is the one that the patch stores, or else the input direction to which the change reacts. A sum of patches
    of which only some store keys counts as one that stores none.
    """
    places, keys = dict[str, list[int]](), dict[str, list[Array]]()
    row = {entry.place: index for index, entry in enumerate(entries)}
    for step, change in changes.items():
        own = columns(change)
        if own is None:
            continue
        places_of_step = [EditPosition(step, record["edit"]["id"]) for record in change.edits]
        if not row.keys() >= set(places_of_step):  # added after the entries were read
            continue
        rows = [row[place] for place in places_of_step]
        firsts = [mine[0] for mine in own]  # the first column is the edit's own; further facts are about other subjects
        for name, pair in change.factors.items():
            places.setdefault(name, []).extend(rows)
            stored = change.keys.get(name, pair.right)
            written = stored if stored.shape == pair.right.shape else pair.right
            keys.setdefault(name, []).append(written[:, firsts].astype(np.float32))
    return {name: (places[name], np.concatenate(found, 1)) for name, found in keys.items()}
