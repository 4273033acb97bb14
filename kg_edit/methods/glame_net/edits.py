"""Edits to train on, drawn from a graph: (s, r, o -> o*) with any o* of the class that r's objects must have.

Subjects are the most mentioned ones among four times as many as are wanted, in an order of hashes; each is edited with
up to ``per_subject`` different o*. What a benchmark edits is left out (`Excluded`): none of its subjects and none of
its new objects is a subject, an o*, or a thing next to an o*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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

_OBJECTS = 1500  # of a relation that may be an o*: the most frequent ones
_CANDIDATES = 4  # times as many subjects are looked at as are wanted


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """Things that may not occur in training: their ids, and their names in lower case."""

    ids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Iterable[BenchmarkRecord]) -> Self:
        """The subjects and the new objects of all edits, of all parts of a benchmark."""
        edits = [edit for record in records for edit in record.edits]
        ids = (name for edit in edits for name in (edit.subject_id, edit.target_new_id) if name)
        names = (name.casefold() for edit in edits for name in (edit.subject, edit.target_new))
        return cls(ids=frozenset(ids), names=frozenset(names))

    def has(self, item: str, label: str | None) -> bool:
        """Whether a thing is one of them, by its id or by its label."""
        return item in self.ids or (label or "").casefold() in self.names


def training_edits(
    table: FactTable, relations: Sequence[str], *, n: int, seed: int, excluded: Excluded, per_subject: int
) -> list[Edit]:
    """At most ``n`` edits, the relations in turn.

    Raises:
        ConfigError: a relation has no noun or no template, or the graph has no edit of any.
    """
    templates = RelationTemplates.load()
    for relation in relations:
        if relation not in table.words.nouns or not _template(templates, relation):
            raise ConfigError(f"relation {relation}: no noun or no template; take one of `kg-edit data ripples --help`")
    wanted = -(-n // len(relations))
    drawn = (_Draw(table, relation, _template(templates, relation), seed, excluded) for relation in relations)
    turns = [one.edits(wanted, per_subject) for one in drawn]
    edits = [edit for edit in chain.from_iterable(zip_longest(*turns)) if edit][:n]
    if not edits:
        raise ConfigError(f"the graph has no edit of {', '.join(relations)}; give a larger graph or other relations")
    return edits


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
        by_turn = chain.from_iterable(zip_longest(*found))  # each subject once, before any comes again
        return list(islice((edit for edit in by_turn if edit), wanted))

    def _subjects(self, items: Iterable[str], wanted: int) -> list[str]:
        """The most mentioned ones of some in an order of hashes."""
        some = sorted(items, key=lambda item: hashed(self.seed, "subject", self.relation, item))
        some = some[: _CANDIDATES * wanted]
        mentions = self.table.mentions(some)
        known = sorted(some, key=lambda item: (-mentions[item], item))
        self.table.read(known[: 2 * wanted])
        return [item for item in known[: 2 * wanted] if self._may(item)][:wanted]

    def _targets(self, counts: Counter[str]) -> list[str]:
        """Objects of the relation's class, of the present, with plain names."""
        some = [item for item, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))][:_OBJECTS]
        self.table.read(some)
        rule = self.table.words.edited.get(self.relation, EditedRelation())
        return [o for o in some if self._may(o) and self.table.is_now(o) and fits(self.table, o, rule)]

    def _may(self, item: str) -> bool:
        label = self.table.label(item)
        return is_plain(label) and not self.excluded.has(item, label)

    def _of(self, subject: str, targets: Sequence[str], count: int) -> Iterator[Edit]:
        """A subject's edits; which o* follows from a hash."""
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
