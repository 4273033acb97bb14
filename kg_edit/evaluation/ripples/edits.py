"""Draw the edits of a Ripples benchmark: (s, r, o -> o*) with o* of the same kind as o.

The subjects are the best-known ones of a relation, in hash order. o* is one of the relation's own objects; those about
which the model knows more are drawn more often. Subjects and o* are assigned to the splits by their own hash, so that
no subject and no o* of ``dev`` is one of ``test``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean, median
from typing import Literal

from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.words import EditedRelation

Split = Literal["dev", "test"]
_POOL = 160  # the number of most frequent objects of a relation that may be an o*
_SUBJECTS = 3000  # subjects of a relation to consider
_BEST_KNOWN = 250  # the best-known subjects, which may be edited
_SAME_TARGET = 8  # edits towards one o*, at most
_NAME = 40  # characters of a name, at most
_SPECIAL = frozenset('()[]{}|:/"\n')


@dataclass(frozen=True)
class Change:
    """An edit as ids: subject, relation, old and new object, and the split."""

    subject: str
    relation: str
    old: str
    new: str
    split: Split


@dataclass(frozen=True)
class Candidates:
    """The possible edits of a relation: subjects with their current objects, and objects that may be an o*."""

    relation: str
    subjects: Mapping[str, str]
    targets: Sequence[str]


def find_candidates(table: FactTable, relation: str, *, seed: int) -> Candidates:
    """Return the best-known subjects of a relation, and its most frequent objects; the table reads all of them."""
    rule = table.words.edited.get(relation, EditedRelation())
    counts = Counter[str]()
    subjects = set[str]()
    for subject, target in table.pairs(relation):
        counts[target] += 1
        subjects.add(subject)
    frequent = [target for target, _ in counts.most_common(2 * _POOL)]
    in_hash_order = sorted(subjects, key=lambda item: hash_of(seed, "subject", item))
    considered = in_hash_order[:_SUBJECTS]
    mentions = table.mentions(considered)
    best_known = sorted(considered, key=lambda item: (-mentions[item], item))[:_BEST_KNOWN]
    table.read([*frequent, *best_known])

    targets = []
    for item in frequent:
        if is_plain(table.label(item)) and table.is_now(item) and is_of_class(table, item, rule):
            targets.append(item)
    editable = dict[str, str]()
    for subject in best_known:
        if not is_plain(table.label(subject)):
            continue
        current = table.current(subject, relation)
        if current and is_of_class(table, current, rule) and share_no_word(table, subject, current):
            editable[subject] = current
    return Candidates(relation, editable, targets[:_POOL])


def is_of_class(table: FactTable, item: str, rule: EditedRelation) -> bool:
    """Return whether an object is an instance of one of the classes that the relation requires of o*."""
    return not rule.classes or not table.classes(item).isdisjoint(rule.classes)


def group_by_object(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the subjects of each object in pairs (s, o)."""
    subjects: dict[str, list[str]] = {}
    for subject, target in pairs:
        subjects.setdefault(target, []).append(subject)
    return subjects


def share_no_word(table: FactTable, one: str, other: str) -> bool:
    """Return whether two labels share no word: "Paris Saint-Germain" gives away its city."""
    words = (table.label(one) or "").casefold().split()
    other_words = (table.label(other) or "").casefold().split()
    return set(words).isdisjoint(other_words)


def draw_changes(
    table: FactTable, pools: Sequence[Candidates], richness: Mapping[str, int], *, n: int, seed: int
) -> Iterator[Change]:
    """Yield up to ``n`` edits, a third of them for ``dev``, taking the relations in turn.

    Relations about whose objects the model knows more than the median get two turns. ``richness`` is the number of
    relations of an o* whose object the model knows; an o* with 0 is not used.
    """
    means = {}
    for pool in pools:
        known = [richness.get(target, 0) for target in pool.targets]
        means[pool.relation] = fmean(known or [0])
    middle = median(means.values())
    turns = []
    for pool in pools:
        drawn = _draw_in_relation(table, pool, richness, seed=seed)
        turns.append(drawn)
        if means[pool.relation] > middle:
            turns.append(drawn)  # the same iterator: it is asked twice in a round
    remaining = {"dev": n // 3, "test": n - n // 3}
    subjects = set[str]()  # of the edits so far
    targets = Counter[str]()
    for change in _take_turns(turns):
        if remaining[change.split] and change.subject not in subjects and targets[change.new] < _SAME_TARGET:
            remaining[change.split] -= 1
            subjects.add(change.subject)
            targets[change.new] += 1
            yield change


def _take_turns(turns: Sequence[Iterator[Change]]) -> Iterator[Change]:
    """Yield one edit of each iterator in turn, until all are exhausted."""
    while True:
        drawn = [next(turn, None) for turn in turns]
        changes = [change for change in drawn if change]
        if not changes:
            return
        yield from changes


def _draw_in_relation(
    table: FactTable, pool: Candidates, richness: Mapping[str, int], *, seed: int
) -> Iterator[Change]:
    """Yield the subjects in hash order, each with an o*; an o* with higher richness is drawn more often."""
    rule = table.words.edited.get(pool.relation, EditedRelation())
    for subject in sorted(pool.subjects, key=lambda item: hash_of(seed, "edit", item)):
        old = pool.subjects[subject]
        unusable = {old, subject, *table.objects(subject, pool.relation)}
        split = split_of(subject)
        classes = table.classes(old)
        ranks = dict[str, float]()
        for target in pool.targets:
            if not richness.get(target) or target in unusable or split_of(target) != split:
                continue
            is_alike = bool(rule.classes) or not classes.isdisjoint(table.classes(target))
            if is_alike and share_no_word(table, subject, target):
                # A weighted draw: the least -log(u) / richness^2 wins, so the odds are in proportion to richness^2. The
                # hash gives u in (0, 1].
                u = (hash_of(seed, subject, target) + 1) / 2.0**64
                ranks[target] = -log(u) / richness[target] ** 2
        if ranks:
            new = min(ranks, key=ranks.__getitem__)
            yield Change(subject, pool.relation, old, new, split)


def split_of(item: str) -> Split:
    """Return the split of an item, by its hash: a third of all items are in ``dev``."""
    if hash_of("split", item) % 3 == 0:
        return "dev"
    return "test"


def hash_of(*parts: object) -> int:
    """Return a 64-bit number made from the parts, the same on all machines."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def is_plain(label: str | None) -> bool:
    """Return whether a label is a short, capitalised name without special characters, so that a model can be asked."""
    if label is None or len(label) > _NAME or not label[:1].isupper():
        return False
    return _SPECIAL.isdisjoint(label)
