"""The questions of one edit (s, r, o -> o*), proposed from the graph: about portability, and about locality.

A question is a *path*: a thing to start at, and the relations that lead from it to the answer, as in "What is the
[capital] of the [country] of [Rome]?". Each question is proposed with the facts that the model must know by itself,
and is selected if it does. The kinds (`Kind`), with the names of RippleEdits (Cohen et al. 2024):

- two-hop (compositionality I): the model knows the last hop, or does not know it at all. three-hop: one hop more.
- alias (subject aliasing): s by another name. description (compositionality II): s as "the capital of Italy".
- inverse (logical generalisation): the thing of which o* is now the capital.
- other-relation (relation specificity): a fact about s that does not follow from o. old-object, new-object: a fact
  about o or o* alone. same-object: the edited relation of another subject with the object o.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kg_edit.datasets.ripples import Kind
from kg_edit.ripples.edits import Change, apart, hashed
from kg_edit.ripples.facts import FactTable
from kg_edit.ripples.knowledge import AskedFact
from kg_edit.text.matching import normalised

# The most questions of a kind in a record. Two-hop questions with a known and an unknown hop are counted apart.
MOST: Mapping[Kind, int] = {
    "two-hop": 5,
    "three-hop": 1,
    "alias": 1,
    "description": 1,
    "inverse": 1,
    "other-relation": 2,
    "old-object": 1,
    "new-object": 1,
    "same-object": 2,
}


@dataclass(frozen=True)
class Proposal:
    """A question, with the facts that the model must know (``knows``) or must not know (``lacks``).

    ``via`` are the things between the start and the answer; ``old`` are the names of the answers before the edit.
    """

    kind: Kind
    start: str
    hops: tuple[str, ...]
    answers: tuple[str, ...]
    old: tuple[str, ...] = ()
    via: tuple[str, ...] = ()
    knows: tuple[AskedFact, ...] = ()
    lacks: tuple[AskedFact, ...] = ()


def fact_of(table: FactTable, item: str, relation: str) -> AskedFact | None:
    """Return the current fact of an item in words; None if there is none, or if object and item share a word."""
    target, label = table.current(item, relation), table.label(item)
    if target is None or label is None or not apart(table, item, target) or _same(table.names(target), [label]):
        return None
    return AskedFact(relation, label, table.names(target))


def facts_of(table: FactTable, item: str) -> Iterator[AskedFact]:
    """Return the current facts of an item for the relations ``asked``, in their order."""
    found = (fact_of(table, item, relation) for relation in table.words.asked)
    return (fact for fact in found if fact)


def proposals(table: FactTable, change: Change, *, neighbours: Sequence[str], name: str = "") -> Iterator[Proposal]:
    """Yield all questions that the graph has for an edit; ``neighbours`` are other subjects with the object o.

    ``name`` is the subject's name in the edit, for a subject that the graph does not have.
    """
    subject = table.label(change.subject) or name
    for of_hop in (_two_hops, _three_hops, _aliases, _descriptions, _inverse, _others):
        yield from of_hop(table, change, subject)
    yield from _objects_alone(table, change, subject)
    for neighbour in neighbours:
        if fact := fact_of(table, neighbour, change.relation):
            yield Proposal("same-object", fact.thing, (change.relation,), fact.names, knows=(fact,))


def _two_hops(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    for fact in facts_of(table, change.new):
        old, asked = _old_names(table, change, fact.relation), (subject, (change.relation, fact.relation))
        if not _same(fact.names, old) and not _same(fact.names, (subject,)):
            yield Proposal("two-hop", *asked, fact.names, old, knows=(fact,))
            yield Proposal("two-hop", *asked, fact.names, old, lacks=(fact,))


def _three_hops(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    for fact in facts_of(table, change.new):
        middle = table.current(change.new, fact.relation)
        before = table.current(change.old, fact.relation)
        for last in facts_of(table, middle) if middle else ():
            far = fact_of(table, before, last.relation) if before else None
            old = far.names if far else ()
            direct = {one.object for one in facts_of(table, change.new) if one.relation == last.relation}
            short = {subject, fact.thing, fact.object, *direct}  # answers that lead back, or that fewer hops give
            if _same(last.names, old) or not short.isdisjoint(last.names):
                continue
            hops = (change.relation, fact.relation, last.relation)
            yield Proposal("three-hop", subject, hops, last.names, old, via=(fact.object,), knows=(fact, last))


def _aliases(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    own = fact_of(table, change.subject, change.relation)
    for alias in table.names(change.subject)[1:] if own else ():
        if own and len(normalised(alias)) > 1 and not _same((alias,), (subject,)):
            fact = AskedFact(change.relation, alias, own.names)
            new = table.names(change.new)
            yield Proposal("alias", alias, (change.relation,), new, own.names, knows=(own, fact))


def _descriptions(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    """S as the only object of a relation of another thing: the capital of Italy."""
    for relation, thing in table.leads_to(change.subject):
        fact = fact_of(table, thing, relation) if relation in table.words.asked else None
        names_s = table.current(thing, relation) == change.subject  # and not the one that came after s
        if fact and names_s and thing not in (change.old, change.new):
            own = fact_of(table, change.subject, change.relation)
            old = own.names if own else ()
            hops = (relation, change.relation)
            yield Proposal("description", fact.thing, hops, table.names(change.new), old, (subject,), knows=(fact,))


def _inverse(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    if change.relation in table.words.inverse:
        new = table.label(change.new) or ""
        names = table.names(change.subject) if table.label(change.subject) else (subject,)
        yield Proposal("inverse", new, (f"-{change.relation}",), names)


def _others(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    """Further facts about s whose object is neither o nor o*, and no object of a statement about these."""
    follows = {o for item in (change.old, change.new) for some in table.relations(item).values() for o in some}
    for fact in facts_of(table, change.subject):
        target = table.current(change.subject, fact.relation)
        if fact.relation != change.relation and target not in follows | {change.old, change.new}:
            yield Proposal("other-relation", subject, (fact.relation,), fact.names, knows=(fact,))


def _objects_alone(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    """Facts about o and o* that do not lead back to s."""
    ends: tuple[tuple[Kind, str], ...] = (("old-object", change.old), ("new-object", change.new))
    for kind, item in ends:
        for fact in facts_of(table, item) if item else ():
            if subject in fact.names:
                continue
            yield Proposal(kind, fact.thing, (fact.relation,), fact.names, knows=(fact,))


def _old_names(table: FactTable, change: Change, relation: str) -> tuple[str, ...]:
    """All names of the old chain's possible ends, labels first; none of them may be right after the edit."""
    names = [table.names(end) for end in table.objects(change.old, relation)]
    return tuple(dict.fromkeys([*(some[0] for some in names), *(name for some in names for name in some)]))


def _same(one: Iterable[str], other: Iterable[str]) -> bool:
    return not {normalised(name) for name in one}.isdisjoint(normalised(name) for name in other)


def selected(found: Sequence[Proposal], usable: Iterable[Proposal], *, seed: int, name: str) -> list[Proposal]:
    """Return the first ``usable`` questions of each kind in hash order (`MOST`), in the order of ``found``."""
    places = {id(one): place for place, one in enumerate(found)}
    chosen: list[Proposal] = []
    groups: dict[tuple[Kind, bool], list[Proposal]] = {}
    for one in usable:
        groups.setdefault((one.kind, bool(one.lacks)), []).append(one)
    for (kind, _), some in groups.items():
        chosen += sorted(some, key=lambda one: hashed(seed, name, one.start, *one.hops))[: MOST[kind]]
    return sorted(chosen, key=lambda one: places[id(one)])
