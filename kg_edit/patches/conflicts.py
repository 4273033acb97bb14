"""Find conflicts between edits: edits of the same fact, and edits that were written under nearly the same key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from kg_edit.edits.edit import Edit
from kg_edit.patches.changes import Array, Changes, columns
from kg_edit.patches.entries import EditPosition, Entry

COSINE = 0.6  # of two edits' keys (docs/patches.md)

ConflictKind = Literal["contradiction", "duplicate", "near keys"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """Two active edits in conflict, the earlier one first; ``cosine`` of their keys if these are near, else None."""

    kind: ConflictKind
    first: Entry
    second: Entry
    cosine: float | None = None

    def __str__(self) -> str:
        one = self.first
        two = self.second
        match self.kind:
            case "contradiction":
                return (
                    f"{one.name} and {two.name} edit one fact to {one.edit.target_new!r} and to "
                    f"{two.edit.target_new!r}; keep one of them"
                )
            case "duplicate":
                return f"{one.name} and {two.name} both edit one fact to {two.edit.target_new!r}; one is enough"
        return (
            f"{one.name} and {two.name} are written under nearly the same key (cosine {self.cosine:.2f}), so the "
            "later edit may overwrite the earlier one; run kg-edit patch check"
        )

    def other(self, entry: Entry) -> Entry | None:
        """Return the edit with which ``entry`` is in conflict; None if the conflict is between two others."""
        if entry.position not in (self.first.position, self.second.position):
            return None
        return self.second if self.first.position == entry.position else self.first


def conflicts(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> tuple[Conflict, ...]:
    """Return all pairs of ``entries`` in conflict; ``changes`` are the changes of their steps."""
    # Only edits that share the subject's id or its name may be of one fact, and all pairs of thousands are many
    of_subject = defaultdict[str, list[int]](list)
    for index, entry in enumerate(entries):
        name = entry.edit.subject.casefold()
        for key in {name, entry.edit.subject_id or name}:
            of_subject[key].append(index)
    pairs = set[tuple[int, int]]()
    for rows in of_subject.values():
        pairs.update(combinations(rows, 2))

    same = dict[tuple[Entry, Entry], ConflictKind]()
    for first, second in sorted(pairs):
        kind = _same_fact(entries[first].edit, entries[second].edit)
        if kind:
            same[entries[first], entries[second]] = kind
    near = {(first, second): cosine for first, second, cosine in _near_keys(entries, changes)}
    found = list[Conflict]()
    for pair in dict.fromkeys([*same, *near]):
        first_entry, second_entry = pair
        kind = same.get(pair, "near keys")
        found.append(Conflict(kind=kind, first=first_entry, second=second_entry, cosine=near.get(pair)))
    return tuple(found)


def contradictions(entries: Sequence[Entry]) -> tuple[Conflict, ...]:
    """Return the pairs of ``entries`` with different targets for one fact, of which the model can predict only one."""
    return tuple(conflict for conflict in conflicts(entries, {}) if conflict.kind == "contradiction")


def _same_fact(one: Edit, two: Edit) -> ConflictKind | None:
    """Return how two edits of one subject and one relation are in conflict; None if they are not."""
    if not _agree(one.subject_id, two.subject_id, one.subject, two.subject):
        return None
    if one.prompt != two.prompt:
        if not (one.relation and two.relation) and not (one.relation_id and two.relation_id):
            return None
        if not _agree(one.relation_id, two.relation_id, one.relation or "", two.relation or ""):
            return None
    if set(one.forms).isdisjoint(two.forms):  # in plain text and in chat form: one does not reach the other
        return None
    if not _agree(one.target_new_id, two.target_new_id, one.target_new, two.target_new):
        return "contradiction"
    if set(one.forms) <= set(two.forms) or set(two.forms) <= set(one.forms):
        return "duplicate"
    return None


def _agree(one_id: str | None, two_id: str | None, one: str, two: str) -> bool:
    """Return whether two names mean the same: by their ids if both have one, as one name may have several bearers."""
    if one_id and two_id:
        return one_id == two_id
    return one.casefold() == two.casefold()


def _near_keys(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> Iterator[tuple[Entry, Entry, float]]:
    """Yield pairs whose keys have an absolute cosine above `COSINE` in at least one weight.

    The key is the one that the patch stores, or else the input direction to which the change reacts. A sum of patches
    of which only some store keys counts as one that stores none.
    """
    row = {entry.position: index for index, entry in enumerate(entries)}
    rows_of = dict[str, list[int]]()  # by weight: the entries whose keys are there
    keys_of = dict[str, list[Array]]()  # by weight: their keys
    for step, change in changes.items():
        edit_columns = columns(change)
        if edit_columns is None:
            continue
        positions = [EditPosition(step, record["edit"]["id"]) for record in change.edits]
        if not row.keys() >= set(positions):  # added after the entries were read
            continue
        # The first column is the edit's; further facts have other subjects.
        firsts = [columns_of_edit[0] for columns_of_edit in edit_columns]
        for name, pair in change.factors.items():
            stored = change.keys.get(name, pair.right)
            keys = stored if stored.shape == pair.right.shape else pair.right  # [in, columns]
            rows_of.setdefault(name, []).extend(row[position] for position in positions)
            keys_of.setdefault(name, []).append(keys[:, firsts].astype(np.float32))

    largest: dict[tuple[int, int], float] = {}
    for name, parts in keys_of.items():
        keys = np.concatenate(parts, 1)  # [in, edits]
        units = keys / np.linalg.norm(keys, axis=0).clip(min=1e-12)
        cosines = abs(np.triu(units.T @ units, k=1))  # [edits, edits], each pair once
        for one, two in np.argwhere(cosines > COSINE).tolist():
            pair_of_rows = (rows_of[name][one], rows_of[name][two])
            largest[pair_of_rows] = max(largest.get(pair_of_rows, 0.0), float(cosines[one, two]))
    for (one, two), cosine in sorted(largest.items()):
        yield entries[one], entries[two], round(cosine, 4)
