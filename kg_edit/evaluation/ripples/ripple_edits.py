"""Draw training edits from a graph: (s, r, o -> o*), with o* of the class that r's objects must have.

For each relation, four times as many subjects as needed are drawn in an order of hashes, and the most mentioned of them
are edited. A benchmark that will test what is trained must not be seen in training. The subjects and new objects of
its edits are therefore `Excluded`: none of them becomes a subject, an o*, or a neighbour of an edit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import Self

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError
from kg_edit.evaluation.ripples.edits import group_by_object, hash_of, is_of_class, is_plain, share_no_word
from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.words import EditedRelation

_OBJECTS = 1500  # only the most frequent objects of a relation, up to this number, may be an o*
_CANDIDATES = 4  # candidates per wanted subject
_NEIGHBOURS = 3  # prompts about other subjects with the same o, per edit, at most


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """The things that must not occur in training: their ids, and their names in lower case."""

    ids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Iterable[BenchmarkRecord]) -> Self:
        """Return the subjects and the new objects of all edits in the records of a benchmark."""
        ids = set[str]()
        names = set[str]()
        for record in records:
            for edit in record.edits:
                ids |= {item for item in (edit.subject_id, edit.target_new_id) if item}
                names |= {edit.subject.casefold(), edit.target_new.casefold()}
        return cls(ids=frozenset(ids), names=frozenset(names))

    def has(self, item: str, label: str | None) -> bool:
        """Return whether a thing is excluded, by its id or by its label."""
        return item in self.ids or (label or "").casefold() in self.names

    def allows(self, item: str, label: str | None) -> bool:
        """Return whether a thing may occur in training: it is not excluded, and its label is a plain name."""
        return is_plain(label) and not self.has(item, label)


def training_edits(table: FactTable, relations: Sequence[str], *, n: int, seed: int, excluded: Excluded) -> list[Edit]:
    """Draw at most ``n`` edits, alternating between the relations."""
    templates = table.words.templates(relations)
    per_relation = ceil(n / len(relations))
    drawn = []
    for relation in relations:
        template = templates[relation]
        of_relation = _draw_edits(table, relation, template=template, n=per_relation, seed=seed, excluded=excluded)
        drawn.append(of_relation)
    edits = list[Edit]()
    for turn in range(per_relation):
        edits += [of_relation[turn] for of_relation in drawn if turn < len(of_relation)]
    edits = edits[:n]
    if not edits:
        raise ConfigError(
            f"the graph has no facts to edit for {', '.join(relations)}; give a larger graph or other relations"
        )
    return edits


def _draw_edits(table: FactTable, relation: str, *, template: str, n: int, seed: int, excluded: Excluded) -> list[Edit]:
    """Draw at most ``n`` edits of one relation; a hash determines the o* of each subject."""
    pairs = table.pairs(relation)
    rule = table.words.edited.get(relation, EditedRelation())
    order = sorted({s for s, _ in pairs}, key=lambda item: hash_of(seed, "subject", relation, item))
    subjects = _choose_best_known(table, order[: _CANDIDATES * n], n=n, excluded=excluded)
    targets = _find_targets(table, [o for _, o in pairs], rule, excluded=excluded)
    edits = []
    for subject in subjects:
        target = _draw_target(table, subject, relation, targets, seed=seed)
        if target is None:
            continue
        edits.append(
            Edit(
                id=f"{subject} {relation} {target}",
                subject=table.label(subject) or "",
                prompt=template,
                relation=table.words.nouns[relation],
                target_new=table.label(target) or "",
                subject_id=subject,
                relation_id=relation,
                target_new_id=target,
            )
        )
    return edits


def _choose_best_known(table: FactTable, candidates: Sequence[str], *, n: int, excluded: Excluded) -> list[str]:
    """Return the most mentioned candidates that are allowed, at most ``n``."""
    mentions = table.mentions(candidates)
    best_known = sorted(candidates, key=lambda item: (-mentions[item], item))[: 2 * n]
    table.read(best_known)
    allowed = [item for item in best_known if excluded.allows(item, table.label(item))]
    return allowed[:n]


def _find_targets(table: FactTable, objects: Sequence[str], rule: EditedRelation, *, excluded: Excluded) -> list[str]:
    """Find the objects that may be an o*: frequent, of the relation's class, still existing, and allowed."""
    counts = Counter(objects)
    frequent = sorted(counts, key=lambda item: (-counts[item], item))[:_OBJECTS]
    table.read(frequent)
    targets = []
    for item in frequent:
        is_allowed = excluded.allows(item, table.label(item))
        if is_allowed and table.is_now(item) and is_of_class(table, item, rule):
            targets.append(item)
    return targets


def _draw_target(table: FactTable, subject: str, relation: str, targets: Sequence[str], *, seed: int) -> str | None:
    """Return the first target in the subject's hash order that is new to it; None if there is none."""
    taken = {subject, *table.objects(subject, relation)}
    for target in sorted(targets, key=lambda o: hash_of(seed, subject, relation, o)):
        if target not in taken and share_no_word(table, subject, target):
            return target
    return None


def with_neighbours(table: FactTable, edits: Sequence[Edit], *, seed: int, excluded: Excluded) -> list[Edit]:
    """Return the edits with their old object o, and prompts about other subjects with the same o (``neighborhood``).

    ``edits`` were drawn from ``table``. An edit whose subject has no single current object is returned as it is.
    """
    olds: list[str | None] = []
    facts: set[tuple[str, str]] = set()  # (r, o) of the edits
    for edit in edits:
        old = table.current(edit.subject_id or "", edit.relation_id or "")
        olds.append(old)
        if old is not None:
            facts.add((edit.relation_id or "", old))
    neighbours = _draw_neighbours(table, facts, seed=seed)
    names = _find_names(table, neighbours.values(), excluded=excluded)

    extended = []
    for edit, old in zip(edits, olds, strict=True):
        if old is None:
            extended.append(edit)
            continue
        prompts = []
        # An object of many subjects may lie beyond the pairs that the table reads.
        for item in neighbours.get((edit.relation_id or "", old), []):
            if item in names and item != edit.subject_id:
                prompts.append(edit.prompt.replace("{}", names[item]))
        change = {
            "target_true": table.label(old),
            "target_true_id": old,
            "neighborhood": tuple(prompts[:_NEIGHBOURS]),
        }
        extended.append(edit.model_copy(update=change))
    return extended


def _draw_neighbours(table: FactTable, facts: Set[tuple[str, str]], *, seed: int) -> dict[tuple[str, str], list[str]]:
    """Draw subjects of each (relation, object), in hash order: twice as many as wanted, as some have no plain name."""
    neighbours = dict[tuple[str, str], list[str]]()
    for relation in {relation for relation, _ in facts}:
        subjects = group_by_object(table.pairs(relation))
        objects = {o for name, o in facts if name == relation}
        for o in objects & subjects.keys():
            ordered = sorted(subjects[o], key=lambda item: (hash_of(seed, "neighbour", relation, item), item))
            neighbours[relation, o] = ordered[: 2 * _NEIGHBOURS]
    return neighbours


def _find_names(table: FactTable, groups: Iterable[Sequence[str]], *, excluded: Excluded) -> dict[str, str]:
    """Return the labels of the items that are allowed in training."""
    items = sorted(set(chain.from_iterable(groups)))
    labels = table.graph.labels(items)
    return {item: label for item, label in labels.items() if excluded.allows(item, label)}
