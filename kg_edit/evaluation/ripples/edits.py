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
from itertools import chain, zip_longest
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


def candidates(table: FactTable, relation: str, *, seed: int) -> Candidates:
    """Return the best-known subjects of a relation, and its most frequent objects; the table reads all of them."""
    pairs = table.pairs(relation)
    rule = table.words.edited.get(relation, EditedRelation())
    frequent = [o for o, _ in Counter(o for _, o in pairs).most_common(2 * _POOL)]
    subjects = sorted({s for s, _ in pairs}, key=lambda s: hash_of(seed, "subject", s))[:_SUBJECTS]
    mentions = table.mentions(subjects)
    best_known = sorted(subjects, key=lambda s: (-mentions[s], s))[:_BEST_KNOWN]
    table.read([*frequent, *best_known])
    of_kind = [o for o in frequent if is_plain(table.label(o)) and table.is_now(o) and is_of_class(table, o, rule)]
    current = {s: table.current(s, relation) for s in best_known if is_plain(table.label(s))}
    chosen = {s: o for s, o in current.items() if o and is_of_class(table, o, rule) and share_no_word(table, s, o)}
    return Candidates(relation, chosen, of_kind[:_POOL])


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
    words = [set((table.label(item) or "").casefold().split()) for item in (one, other)]
    return words[0].isdisjoint(words[1])


def changes(
    table: FactTable, pools: Sequence[Candidates], richness: Mapping[str, int], *, n: int, seed: int
) -> Iterator[Change]:
    """Yield up to ``n`` edits, a third of them for ``dev``, taking the relations in turn.

    Relations about whose objects the model knows more than the median get two turns. ``richness`` is the number of
    relations of an o* whose object the model knows; an o* with 0 is not used.
    """
    means = {pool.relation: fmean([richness.get(o, 0) for o in pool.targets] or [0]) for pool in pools}
    middle = median(means.values())
    turns = []
    for pool in pools:
        drawn = _of_relation(table, pool, richness, seed=seed)
        turns.append(drawn)
        if means[pool.relation] > middle:
            turns.append(drawn)  # the same iterator: it is asked twice in a round
    remaining = {"dev": n // 3, "test": n - n // 3}
    taken = set[str]()
    used = Counter[str]()
    for change in chain.from_iterable(zip_longest(*turns)):
        if change is None:
            continue
        if remaining[change.split] and change.subject not in taken and used[change.new] < _SAME_TARGET:
            remaining[change.split] -= 1
            taken.add(change.subject)
            used[change.new] += 1
            yield change


def _of_relation(table: FactTable, pool: Candidates, richness: Mapping[str, int], *, seed: int) -> Iterator[Change]:
    """Yield the subjects in hash order, each with an o*; an o* with higher richness is drawn more often."""
    rich = [o for o in pool.targets if richness.get(o)]
    rule = table.words.edited.get(pool.relation, EditedRelation())
    for subject in sorted(pool.subjects, key=lambda s: hash_of(seed, "edit", s)):
        old = pool.subjects[subject]
        split = split_of(subject)
        taken = {old, subject, *table.objects(subject, pool.relation)}
        fitting = [o for o in rich if o not in taken and split_of(o) == split and share_no_word(table, subject, o)]
        if not rule.classes:
            classes = table.classes(old)
            fitting = [o for o in fitting if not classes.isdisjoint(table.classes(o))]
        if fitting:
            # A weighted draw: the smallest number wins, with odds in proportion to the squared weight.
            new = min(fitting, key=lambda o: -log((hash_of(seed, subject, o) + 1) / 2.0**64) / richness[o] ** 2)
            yield Change(subject, pool.relation, old, new, split)


def split_of(item: str) -> Split:
    """Return the split of an item, by its hash: a third of all items are in ``dev``."""
    return "dev" if hash_of("split", item) % 3 == 0 else "test"


def hash_of(*parts: object) -> int:
    """Return a 64-bit number made from the parts, the same on all machines."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def is_plain(label: str | None) -> bool:
    """Return whether a label is a short, capitalised name without special characters, so that a model can be asked."""
    return label is not None and len(label) <= _NAME and not set('()[]{}|:/"\n') & set(label) and label[:1].isupper()
