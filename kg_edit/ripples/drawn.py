"""Draws training edits for glame-net from a graph: (s, r, o -> o*), with o* of the class that r's objects must have.

Candidates for the subjects are drawn in an order of hashes, four times as many as needed; the most mentioned ones are
taken. Each subject is edited with up to ``per_subject`` different o*. The things that a benchmark edits are left out
(`Excluded`): its subjects and new objects are never a subject, an o*, or a neighbour of an o*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Self

from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.edit import Edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import ConfigError
from kg_edit.ripples.edits import apart, fits, hashed, is_plain
from kg_edit.ripples.facts import FactTable
from kg_edit.ripples.words import EditedRelation

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


def training_edits(
    table: FactTable, relations: Sequence[str], *, n: int, seed: int, excluded: Excluded, per_subject: int
) -> list[Edit]:
    """Draw at most ``n`` edits, alternating between the relations.

    Raises:
        ConfigError: a relation has no noun or no template, or the graph gives no edit for any relation.
    """
    templates = RelationTemplates.load()
    for relation in relations:
        if relation not in table.words.nouns or not _template(templates, relation):
            raise ConfigError(
                f"relation {relation} has no noun or no template; `kg-edit data ripples --help` lists relations"
            )
    wanted = -(-n // len(relations))
    drawn = (_Draw(table, relation, _template(templates, relation), seed, excluded) for relation in relations)
    turns = [one.edits(wanted, per_subject) for one in drawn]
    edits = [edit for edit in chain.from_iterable(zip_longest(*turns)) if edit][:n]
    if not edits:
        raise ConfigError(
            f"the graph has no facts to edit for {', '.join(relations)}; give a larger graph or other relations"
        )
    return edits


def with_neighbours(table: FactTable, edits: Sequence[Edit], *, seed: int, excluded: Excluded) -> list[Edit]:
    """Return the edits with their old object o, and prompts about other subjects with the same o (``neighborhood``).

    ``edits`` were drawn from ``table``. An edit whose subject has no single current object is returned as it is.
    """
    old = {edit.id: o for edit in edits if (o := table.current(edit.subject_id or "", edit.relation_id or ""))}
    wanted = {(edit.relation_id or "", old[edit.id]) for edit in edits if edit.id in old}
    alike = {
        (relation, o): sorted(some, key=lambda item: hashed(seed, "neighbour", relation, item))[: 2 * _NEIGHBOURS]
        for relation in {relation for relation, _ in wanted}
        for o, some in _subjects_by_object(table, relation).items()
        if (relation, o) in wanted
    }
    labels = table.graph.labels(sorted({item for some in alike.values() for item in some}))
    known = {item: label for item, label in labels.items() if is_plain(label) and not excluded.has(item, label)}
    return [_beside(table, edit, old[edit.id], alike, known) if edit.id in old else edit for edit in edits]


def _subjects_by_object(table: FactTable, relation: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for subject, target in table.pairs(relation):
        found.setdefault(target, []).append(subject)
    return found


def _beside(
    table: FactTable, edit: Edit, old: str, alike: Mapping[tuple[str, str], Sequence[str]], labels: Mapping[str, str]
) -> Edit:
    """The edit with its old object and up to `_NEIGHBOURS` prompts about other subjects of that object."""
    others = [labels[item] for item in alike[edit.relation_id or "", old] if item in labels and item != edit.subject_id]
    prompts = tuple(edit.prompt.replace("{}", label) for label in others[:_NEIGHBOURS])
    return edit.model_copy(update={"target_true": table.label(old), "target_true_id": old, "neighborhood": prompts})


def _template(templates: RelationTemplates, relation: str) -> str:
    row = templates.find(relation)
    return row.template if row else ""


@dataclass(frozen=True, eq=False)
class _Draw:
    """The edits of one relation."""

    table: FactTable
    relation: str
    template: str
    seed: int
    excluded: Excluded

    def edits(self, wanted: int, per_subject: int) -> list[Edit]:
        pairs = self.table.pairs(self.relation)
        subjects = self._subjects({s for s, _ in pairs}, -(-wanted // per_subject))
        targets = self._targets(Counter(o for _, o in pairs))
        found = (tuple(self._of(subject, targets, per_subject)) for subject in subjects)
        by_turn = chain.from_iterable(zip_longest(*found))  # each subject once before any subject repeats
        return list(islice((edit for edit in by_turn if edit), wanted))

    def _subjects(self, items: Iterable[str], wanted: int) -> list[str]:
        """Draw candidates among ``items`` in an order of hashes, and take the most mentioned ones."""
        some = sorted(items, key=lambda item: hashed(self.seed, "subject", self.relation, item))
        some = some[: _CANDIDATES * wanted]
        mentions = self.table.mentions(some)
        known = sorted(some, key=lambda item: (-mentions[item], item))
        self.table.read(known[: 2 * wanted])
        return [item for item in known[: 2 * wanted] if self._may(item)][:wanted]

    def _targets(self, counts: Counter[str]) -> list[str]:
        """The objects that may be an o*: of the relation's class, still existing, with plain names, not excluded."""
        some = [item for item, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))][:_OBJECTS]
        self.table.read(some)
        rule = self.table.words.edited.get(self.relation, EditedRelation())
        return [o for o in some if self._may(o) and self.table.is_now(o) and fits(self.table, o, rule)]

    def _may(self, item: str) -> bool:
        label = self.table.label(item)
        return is_plain(label) and not self.excluded.has(item, label)

    def _of(self, subject: str, targets: Sequence[str], count: int) -> Iterator[Edit]:
        """Yield up to ``count`` edits of a subject; a hash determines each o*."""
        own = {subject, *self.table.objects(subject, self.relation)}
        order = sorted(targets, key=lambda o: hashed(self.seed, subject, self.relation, o))
        fitting = (o for o in order if o not in own and apart(self.table, subject, o))
        for target in islice(fitting, count):
            yield self._edit(subject, target)

    def _edit(self, subject: str, target: str) -> Edit:
        return Edit(
            id=f"{subject} {self.relation} {target}",
            subject=self.table.label(subject) or "",
            prompt=self.template,
            relation=self.table.words.nouns[self.relation],
            target_new=self.table.label(target) or "",
            subject_id=subject,
            relation_id=self.relation,
            target_new_id=target,
        )
