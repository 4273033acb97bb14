"""Find conflicts between edits: edits of the same fact, and edits that were written under nearly the same key.

`find_conflicts` compares all edits of a ledger, `find_contradictions` only the facts of any edits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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


def find_conflicts(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> tuple[Conflict, ...]:
    """Return all pairs of ``entries`` in conflict.

    In the functions below, a pair of edits is the pair of their numbers in ``entries``, the lower one first.

    Args:
        entries: edits in their order. With ``changes`` they are of one ledger, where no two have the same position.
        changes: by step, the changes in which near keys are looked for; {} to compare the facts alone. Each patch of
            a ledger is one step of it.
    """
    kinds = _compare_facts_of_pairs(entries)
    cosines = _find_near_keys(entries, changes)
    found = list[Conflict]()
    for pair in dict.fromkeys([*kinds, *cosines]):
        first, second = pair
        found.append(
            Conflict(
                kind=kinds.get(pair, "near keys"),
                first=entries[first],
                second=entries[second],
                cosine=cosines.get(pair),
            )
        )
    return tuple(found)


def find_contradictions(entries: Sequence[Entry]) -> tuple[Conflict, ...]:
    """Return the pairs of ``entries`` with different targets for one fact, of which the model can predict only one."""
    return tuple(conflict for conflict in find_conflicts(entries, {}) if conflict.kind == "contradiction")


def _compare_facts_of_pairs(entries: Sequence[Entry]) -> dict[tuple[int, int], ConflictKind]:
    """Return the pairs of edits of one fact, with the kind of their conflict."""
    kinds = dict[tuple[int, int], ConflictKind]()
    for first, second in _pair_by_subject(entries):
        kind = _compare_facts(entries[first].edit, entries[second].edit)
        if kind:
            kinds[first, second] = kind
    return kinds


def _pair_by_subject(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Return the pairs of edits that share the subject's id or its name: only these may be of one fact.

    All pairs of thousands of edits would be too many to compare.
    """
    by_subject = defaultdict[str, list[int]](list)  # the numbers of the edits of each name, and of each id
    for number, entry in enumerate(entries):
        names = {entry.edit.subject.casefold()}
        if entry.edit.subject_id:
            names.add(entry.edit.subject_id)
        for name in names:
            by_subject[name].append(number)
    pairs = set[tuple[int, int]]()
    for numbers in by_subject.values():
        pairs.update(combinations(numbers, 2))
    return sorted(pairs)


def _compare_facts(first: Edit, second: Edit) -> ConflictKind | None:
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


def _find_near_keys(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> dict[tuple[int, int], float]:
    """Return the pairs whose keys have an absolute cosine above `COSINE` in at least one weight, with the largest."""
    largest = dict[tuple[int, int], float]()
    for numbers, keys in _collect_keys(entries, changes).values():  # column i of ``keys`` is of the edit numbers[i]
        units = keys / np.linalg.norm(keys, axis=0).clip(min=1e-12)  # [in, edits]
        cosines = abs(np.triu(units.T @ units, k=1))  # [edits, edits], each pair of columns once
        for column_a, column_b in np.argwhere(cosines > COSINE).tolist():
            # Sorted, because the steps may be in another order than the entries.
            first, second = sorted((numbers[column_a], numbers[column_b]))
            cosine = float(cosines[column_a, column_b])
            largest[first, second] = max(largest.get((first, second), 0.0), cosine)
    return {pair: round(cosine, 4) for pair, cosine in sorted(largest.items())}


def _collect_keys(entries: Sequence[Entry], changes: Mapping[int, Changes]) -> dict[str, tuple[list[int], Array]]:
    """Return by weight the numbers of the entries that have a key there, and these keys [in, edits], in one order."""
    number_of = {entry.position: number for number, entry in enumerate(entries)}
    numbers = defaultdict[str, list[int]](list)  # by weight: the numbers of the entries
    keys = defaultdict[str, list[Array]](list)  # by weight: the keys of each step, [in, edits of the step]
    for step, change in changes.items():
        positions = [EditPosition(step, record["edit"]["id"]) for record in change.edits]
        are_known = all(position in number_of for position in positions)
        if not are_known:  # the ledger has grown since the entries were read
            continue
        for name, keys_of_step in _select_keys(change).items():
            numbers[name] += [number_of[position] for position in positions]
            keys[name].append(keys_of_step)
    return {name: (numbers[name], np.concatenate(keys[name], 1)) for name in numbers}


def _select_keys(change: Changes) -> dict[str, Array]:
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
        if all_columns.shape != pair.right.shape:  # only some of the summed patches store keys
            all_columns = pair.right
        keys[name] = all_columns[:, first_columns].astype(np.float32)
    return keys
