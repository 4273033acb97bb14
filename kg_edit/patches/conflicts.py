"""Find conflicts between edits: edits of the same fact, and edits that were written under nearly the same key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from kg_edit.edits.edit import Edit
from kg_edit.patches.changes import Array, Changes, columns_by_edit
from kg_edit.patches.entries import EditPosition, Entry

COSINE = 0.6  # two edits' keys with a larger cosine are near (docs/patches.md)

ConflictKind = Literal["contradiction", "duplicate", "near keys"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conflict:
    """Two active edits in conflict, the earlier one first; ``cosine`` of their keys if these are near, else None."""

    kind: ConflictKind
    first: Entry
    second: Entry
    cosine: float | None = None

    def __str__(self) -> str:
        both = f"{self.first.name} and {self.second.name}"
        target = self.second.edit.target_new
        match self.kind:
            case "contradiction":
                earlier = self.first.edit.target_new
                return f"{both} edit one fact to {earlier!r} and to {target!r}; keep one of them"
            case "duplicate":
                return f"{both} both edit one fact to {target!r}; one is enough"
        return (
            f"{both} are written under nearly the same key (cosine {self.cosine:.2f}), so the "
            "later edit may overwrite the earlier one; run kg-edit patch check"
        )

    def involves(self, entry: Entry) -> bool:
        """Return whether ``entry`` is one of the two edits."""
        return entry.position in (self.first.position, self.second.position)

    def other(self, entry: Entry) -> Entry | None:
        """Return the edit with which ``entry`` is in conflict; None if the conflict is between two others."""
        if entry.position == self.first.position:
            return self.second
        if entry.position == self.second.position:
            return self.first
        return None


def conflicts(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> tuple[Conflict, ...]:
    """Return all pairs of ``entries`` in conflict; ``changes`` are the changes of their steps.

    The dicts below have pairs of entries as keys. An `Entry` is compared by identity, and each edit has one entry.
    """
    same_fact = dict[tuple[Entry, Entry], ConflictKind]()
    for first, second in _pairs_with_one_subject(entries):
        kind = _same_fact(first.edit, second.edit)
        if kind:
            same_fact[first, second] = kind
    cosines = dict[tuple[Entry, Entry], float]()  # of pairs with near keys
    for first, second, cosine in _near_keys(entries, changes):
        cosines[first, second] = cosine

    found = list[Conflict]()
    for first, second in dict.fromkeys([*same_fact, *cosines]):
        kind = same_fact.get((first, second), "near keys")
        found.append(Conflict(kind=kind, first=first, second=second, cosine=cosines.get((first, second))))
    return tuple(found)


def _pairs_with_one_subject(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Return the pairs of edits that share the subject's id or its name: only these may be of one fact.

    All pairs of thousands of edits would be too many to compare.
    """
    by_subject = defaultdict[str, list[int]](list)  # the numbers of the edits of each name and of each id
    for number, entry in enumerate(entries):
        name = entry.edit.subject.casefold()
        for key in {name, entry.edit.subject_id or name}:  # once by its name, and once by its id if it has one
            by_subject[key].append(number)
    pairs = set[tuple[int, int]]()
    for numbers in by_subject.values():
        pairs.update(combinations(numbers, 2))
    return [(entries[first], entries[second]) for first, second in sorted(pairs)]


def contradictions(entries: Sequence[Entry]) -> tuple[Conflict, ...]:
    """Return the pairs of ``entries`` with different targets for one fact, of which the model can predict only one."""
    return tuple(conflict for conflict in conflicts(entries, {}) if conflict.kind == "contradiction")


def _same_fact(first: Edit, second: Edit) -> ConflictKind | None:
    """Return how two edits of one fact are in conflict; None if they are of different facts, or asked differently.

    Two edits are of one fact if they have one subject, and one prompt or one relation.
    """
    if not _agree(ids=(first.subject_id, second.subject_id), names=(first.subject, second.subject)):
        return None
    if first.prompt != second.prompt and not _share_relation(first, second):
        return None
    if set(first.forms).isdisjoint(second.forms):  # in plain text and in chat form: one does not reach the other
        return None
    if not _agree(ids=(first.target_new_id, second.target_new_id), names=(first.target_new, second.target_new)):
        return "contradiction"
    return "duplicate"


def _share_relation(first: Edit, second: Edit) -> bool:
    """Return whether two edits are of one relation; false if one of them says neither its id nor its label."""
    have_labels = bool(first.relation and second.relation)
    have_ids = bool(first.relation_id and second.relation_id)
    if not have_labels and not have_ids:
        return False
    return _agree(ids=(first.relation_id, second.relation_id), names=(first.relation or "", second.relation or ""))


def _agree(*, ids: tuple[str | None, str | None], names: tuple[str, str]) -> bool:
    """Return whether two names mean the same: by their ids if both have one, as one name may have several bearers."""
    first_id, second_id = ids
    if first_id and second_id:
        return first_id == second_id
    first, second = names
    return first.casefold() == second.casefold()


def _near_keys(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> Iterator[tuple[Entry, Entry, float]]:
    """Yield pairs whose keys have an absolute cosine above `COSINE` in at least one weight."""
    largest: dict[tuple[int, int], float] = {}  # by the numbers of two entries
    for numbers, keys in _keys_by_weight(entries, changes).values():
        units = keys / np.linalg.norm(keys, axis=0).clip(min=1e-12)  # [in, edits]
        cosines = abs(np.triu(units.T @ units, k=1))  # [edits, edits], each pair once
        for column_a, column_b in np.argwhere(cosines > COSINE).tolist():  # a column is the key of the entry numbers[…]
            # The steps may be in another order than the entries.
            lower, upper = sorted((numbers[column_a], numbers[column_b]))
            cosine = float(cosines[column_a, column_b])
            largest[lower, upper] = max(largest.get((lower, upper), 0.0), cosine)
    for (first, second), cosine in sorted(largest.items()):
        yield entries[first], entries[second], round(cosine, 4)


def _keys_by_weight(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> dict[str, tuple[list[int], Array]]:
    """Return by weight the numbers of the entries that have a key there, and these keys [in, edits]."""
    number_of = {entry.position: number for number, entry in enumerate(entries)}
    numbers = defaultdict[str, list[int]](list)  # by weight: the numbers of the entries
    keys = defaultdict[str, list[Array]](list)  # by weight: the keys of each step, [in, edits of the step]
    for step, change in changes.items():
        positions = [EditPosition(step, record["edit"]["id"]) for record in change.edits]
        are_known = all(position in number_of for position in positions)
        if not are_known:  # the ledger has grown since the entries were read
            continue
        for name, keys_of_step in _keys_of_step(change).items():
            numbers[name] += [number_of[position] for position in positions]
            keys[name].append(keys_of_step)
    return {name: (numbers[name], np.concatenate(keys[name], 1)) for name in numbers}


def _keys_of_step(change: Changes) -> dict[str, Array]:
    """Return by weight the keys of a step's edits, [in, edits]; {} if the columns do not belong to edits.

    The key is the one that the patch stores, or else the input direction to which the change reacts. A sum of patches
    of which only some store keys counts as one that stores none.
    """
    edit_columns = columns_by_edit(change)
    if edit_columns is None:
        return {}
    # An edit's first column is its own; further facts, in the other columns, have other subjects.
    first_columns = [columns[0] for columns in edit_columns]
    keys = dict[str, Array]()
    for name, pair in change.factors.items():
        all_columns = change.keys.get(name, pair.right)  # [in, columns]
        if all_columns.shape != pair.right.shape:
            all_columns = pair.right
        keys[name] = all_columns[:, first_columns].astype(np.float32)
    return keys
