"""Draw training edits from a graph: (s, r, o -> o*), with o* of the class that r's objects must have.

Candidates for the subjects are drawn in an order of hashes, four times as many as needed; the most mentioned ones are
taken. The things that a benchmark edits are left out
(`Excluded`): its subjects and new objects are never a subject, an o*, or a neighbour of an o*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Self

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError
from kg_edit.evaluation.ripples.edits import apart, by_object, fits, hashed, is_plain
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
        edits = [edit for record in records for edit in record.edits]
        ids = (name for edit in edits for name in (edit.subject_id, edit.target_new_id) if name)
        names = (name.casefold() for edit in edits for name in (edit.subject, edit.target_new))
        return cls(ids=frozenset(ids), names=frozenset(names))

    def has(self, item: str, label: str | None) -> bool:
        """Return whether a thing is excluded, by its id or by its label."""
        return item in self.ids or (label or "").casefold() in self.names


def training_edits(table: FactTable, relations: Sequence[str], *, n: int, seed: int, excluded: Excluded) -> list[Edit]:
    """Draw at most ``n`` edits, alternating between the relations."""
    templates = table.words.templates(relations)
    per_relation = -(-n // len(relations))
    drawn = [
        _of_relation(table, relation, template=templates[relation], n=per_relation, seed=seed, excluded=excluded)
        for relation in relations
    ]
    edits = [edit for edit in chain.from_iterable(zip_longest(*drawn)) if edit][:n]
    if not edits:
        raise ConfigError(
            f"the graph has no facts to edit for {', '.join(relations)}; give a larger graph or other relations"
        )
    return edits


def _of_relation(
    table: FactTable, relation: str, *, template: str, n: int, seed: int, excluded: Excluded
) -> list[Edit]:
    """At most ``n`` edits of one relation."""
    pairs = table.pairs(relation)

    def usable(item: str) -> bool:
        label = table.label(item)
        return is_plain(label) and not excluded.has(item, label)

    # Subjects: candidates in hash order, and of these the most mentioned ones.
    candidates = sorted({s for s, _ in pairs}, key=lambda item: hashed(seed, "subject", relation, item))
    candidates = candidates[: _CANDIDATES * n]
    mentions = table.mentions(candidates)
    best_known = sorted(candidates, key=lambda item: (-mentions[item], item))[: 2 * n]
    table.read(best_known)
    subjects = [item for item in best_known if usable(item)][:n]

    # Objects that may be an o*: of the relation's class, still existing, with plain names, not excluded.
    counts = Counter(o for _, o in pairs)
    frequent = [item for item, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))][:_OBJECTS]
    table.read(frequent)
    rule = table.words.edited.get(relation, EditedRelation())
    targets = [o for o in frequent if usable(o) and table.is_now(o) and fits(table, o, rule)]

    # A hash determines the o* of each subject.
    edits = []
    for subject in subjects:
        taken = {subject, *table.objects(subject, relation)}
        order = sorted(targets, key=lambda o, subject=subject: hashed(seed, subject, relation, o))  # type: ignore[misc]
        target = next((o for o in order if o not in taken and apart(table, subject, o)), None)
        if target:
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


def with_neighbours(table: FactTable, edits: Sequence[Edit], *, seed: int, excluded: Excluded) -> list[Edit]:
    """Return the edits with their old object o, and prompts about other subjects with the same o (``neighborhood``).

    ``edits`` were drawn from ``table``. An edit whose subject has no single current object is returned as it is.
    """
    old = dict[str, str]()
    for edit in edits:
        current = table.current(edit.subject_id or "", edit.relation_id or "")
        if current:
            old[edit.id] = current
    pairs = {(edit.relation_id or "", old[edit.id]) for edit in edits if edit.id in old}
    neighbours = dict[tuple[str, str], list[str]]()
    for relation in {relation for relation, _ in pairs}:
        subjects = by_object(table.pairs(relation))
        for o in subjects.keys() & {target for name, target in pairs if name == relation}:
            ordered = sorted((hashed(seed, "neighbour", relation, item), item) for item in subjects[o])
            neighbours[relation, o] = [item for _, item in ordered[: 2 * _NEIGHBOURS]]
    labels = table.graph.labels(sorted({item for subjects in neighbours.values() for item in subjects}))
    names = {item: label for item, label in labels.items() if is_plain(label) and not excluded.has(item, label)}
    extended = []
    for edit in edits:
        if edit.id not in old:
            extended.append(edit)
            continue
        o = old[edit.id]
        others = [
            names[item] for item in neighbours[edit.relation_id or "", o] if item in names and item != edit.subject_id
        ]
        prompts = tuple(edit.prompt.replace("{}", label) for label in others[:_NEIGHBOURS])
        change = {"target_true": table.label(o), "target_true_id": o, "neighborhood": prompts}
        extended.append(edit.model_copy(update=change))
    return extended
