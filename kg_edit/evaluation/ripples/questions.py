"""The questions of one edit (s, r, o -> o*), proposed from the graph: about portability, and about locality.

A question is a *path*: a thing to start at, and the relations that lead from it to the answer, as in "What is the
[capital] of the [country] of [the Eiffel Tower]?". Each question is proposed with the facts that the model must know by
itself, and is selected if it does. The kinds (`Kind`), with the names of RippleEdits (Cohen et al. 2024), and examples
for the edit (the Eiffel Tower, country, France -> Italy):

- two-hop (compositionality I): the capital of its country, now Rome. The model knows that hop of Italy, or does not
  know it at all. three-hop: one hop more, the mayor of the capital of its country.
- alias (subject aliasing): the country of "the Iron Lady", another name of s.
- description (compositionality II): the country of "the landmark of Paris", a description of s by another fact.
- inverse (logical generalisation): for some relations alone, the thing that o* now belongs to. If the edit is (Italy,
  capital, Rome -> Turin), the question is: of which country is Turin the capital?
- other-relation (relation specificity): the architect of s, which does not follow from its country.
- old-object, new-object: the language of France, and of Italy.
- same-object: the country of Notre-Dame, another subject with the object o.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kg_edit.evaluation.datasets.ripples import Kind
from kg_edit.evaluation.ripples.edits import Change, hash_of, share_no_word
from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.knowledge import AskedFact
from kg_edit.text.matching import normalised

_COUNTRY = "P17"
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


def find_fact(table: FactTable, item: str, relation: str) -> AskedFact | None:
    """Return the current fact of an item in words; None if there is none, or if object and item share a word."""
    target = table.current(item, relation)
    label = table.label(item)
    if target is None or label is None:
        return None
    names = table.names(target)
    if not share_no_word(table, item, target) or _have_same_name(names, [label]):
        return None
    return AskedFact(relation, label, names)


def find_facts(table: FactTable, item: str) -> Iterator[AskedFact]:
    """Yield the current facts of an item for the relations ``asked``, in their order."""
    for relation in table.words.asked:
        fact = find_fact(table, item, relation)
        if fact:
            yield fact


def propose(table: FactTable, change: Change, *, neighbours: Sequence[str], name: str = "") -> Iterator[Proposal]:
    """Yield all questions that the graph has for an edit; ``neighbours`` are other subjects with the object o.

    ``name`` is the subject's name in the edit, for a subject that the graph does not have.
    """
    subject = table.label(change.subject) or name
    old_fact = find_fact(table, change.subject, change.relation)
    new_facts = list(find_facts(table, change.new))
    yield from _ask_two_hops(table, change, subject, new_facts)
    yield from _ask_three_hops(table, change, subject, new_facts)
    if old_fact:
        yield from _ask_aliases(table, change, subject, old_fact)
    yield from _ask_descriptions(table, change, subject, old_fact)
    if change.relation in table.words.inverse:
        yield _ask_inverse(table, change, subject)
    yield from _ask_other_relations(table, change, subject)
    if change.old:
        yield from _ask_about_object("old-object", find_facts(table, change.old), subject)
    if change.new:
        yield from _ask_about_object("new-object", new_facts, subject)
    yield from _ask_neighbours(table, change, subject, neighbours)


def _ask_two_hops(table: FactTable, change: Change, subject: str, new_facts: Sequence[AskedFact]) -> Iterator[Proposal]:
    """Yield the questions over (s, r, o*) and a fact (o*, r', answer), once for each case: the fact known, or unknown.

    Their answer changes by the edit: no name of what r' may be of o is right after it.
    """
    for fact in new_facts:
        # Nor may it be right for the country of o: a city's language is that of its country, if the graph has none.
        if table.current(change.new, fact.relation) in table.ends(change.old, _COUNTRY, fact.relation):
            continue
        old = _list_old_names(table, change.old, fact.relation)
        if not _have_same_name(fact.names, old) and not _have_same_name(fact.names, (subject,)):
            hops = (change.relation, fact.relation)
            yield Proposal("two-hop", subject, hops, fact.names, old, knows=(fact,))
            yield Proposal("two-hop", subject, hops, fact.names, old, lacks=(fact,))


def _list_old_names(table: FactTable, old: str, relation: str) -> tuple[str, ...]:
    """Return the names of all objects of o under a relation: first their labels, those of today first, then aliases."""
    ends = sorted(table.objects(old, relation), key=table.is_now, reverse=True)
    labels = []
    all_names: list[str] = []
    for end in ends:
        names = table.names(end)
        labels.append(names[0])
        all_names += names
    return tuple(dict.fromkeys([*labels, *all_names]))


def _ask_three_hops(
    table: FactTable, change: Change, subject: str, new_facts: Sequence[AskedFact]
) -> Iterator[Proposal]:
    """Yield the questions over (s, r, o*), (o*, r', middle) and (middle, r'', answer).

    Those whose answer leads back to a thing of the path, or that fewer hops answer, are left out.
    """
    for fact in new_facts:
        middle = table.current(change.new, fact.relation)
        if middle is None:
            continue
        old_middle = table.current(change.old, fact.relation)
        for last in find_facts(table, middle):
            # The answer must change by the edit, also where o has several objects, so that the old one is not certain.
            if table.current(middle, last.relation) in table.ends(change.old, fact.relation, last.relation):
                continue
            old: tuple[str, ...] = ()
            if old_middle:
                old_last = find_fact(table, old_middle, last.relation)
                if old_last:
                    old = old_last.names
            nearer = {subject, fact.thing, fact.object}  # the things of the path, and what r'' is of o* itself
            for other in new_facts:
                if other.relation == last.relation:
                    nearer.add(other.object)
            if not _have_same_name(last.names, old) and nearer.isdisjoint(last.names):
                hops = (change.relation, fact.relation, last.relation)
                yield Proposal("three-hop", subject, hops, last.names, old, via=(fact.object,), knows=(fact, last))


def _ask_aliases(table: FactTable, change: Change, subject: str, old_fact: AskedFact) -> Iterator[Proposal]:
    """Yield the edited relation of s by another name, for which the model has to know the old fact too."""
    for alias in table.names(change.subject)[1:]:
        if len(normalised(alias)) > 1 and not _have_same_name((alias,), (subject,)):
            needed = (old_fact, AskedFact(change.relation, alias, old_fact.names))
            answers = table.names(change.new)
            yield Proposal("alias", alias, (change.relation,), answers, old_fact.names, knows=needed)


def _ask_descriptions(table: FactTable, change: Change, subject: str, old_fact: AskedFact | None) -> Iterator[Proposal]:
    """Yield the edited relation of s, named as the only object of a fact, as in "the capital of Italy"."""
    old: tuple[str, ...] = ()
    if old_fact:
        old = old_fact.names
    for relation, thing in table.leads_to(change.subject):
        if relation not in table.words.asked or thing in (change.old, change.new):
            continue
        described = find_fact(table, thing, relation)
        is_about_s = table.current(thing, relation) == change.subject  # and not about the one that came after s
        if described and is_about_s:
            hops = (relation, change.relation)
            answers = table.names(change.new)
            yield Proposal("description", described.thing, hops, answers, old, (subject,), knows=(described,))


def _ask_inverse(table: FactTable, change: Change, subject: str) -> Proposal:
    """Return the question which thing has o* under the edited relation: s, by any of its names."""
    names: tuple[str, ...] = (subject,)
    if table.label(change.subject):
        names = table.names(change.subject)
    backwards = f"-{change.relation}"  # the hop from an object to its subject
    return Proposal("inverse", table.label(change.new) or "", (backwards,), names)


def _ask_other_relations(table: FactTable, change: Change, subject: str) -> Iterator[Proposal]:
    """Yield facts about s whose object is neither o nor o*, and no object of a statement about these."""
    related = {change.old, change.new}
    for item in (change.old, change.new):
        related.update(*table.relations(item).values())
    for fact in find_facts(table, change.subject):
        if fact.relation != change.relation and table.current(change.subject, fact.relation) not in related:
            yield Proposal("other-relation", subject, (fact.relation,), fact.names, knows=(fact,))


def _ask_about_object(kind: Kind, facts: Iterable[AskedFact], subject: str) -> Iterator[Proposal]:
    """Yield facts about o or o* that do not lead back to s."""
    for fact in facts:
        if subject not in fact.names:
            yield Proposal(kind, fact.thing, (fact.relation,), fact.names, knows=(fact,))


def _ask_neighbours(table: FactTable, change: Change, subject: str, neighbours: Sequence[str]) -> Iterator[Proposal]:
    """Yield the edited relation of other subjects; an edit without the id of s is known by its name."""
    for neighbour in neighbours:
        fact = find_fact(table, neighbour, change.relation)
        if fact and not _have_same_name(table.names(neighbour), (subject,)):
            yield Proposal("same-object", fact.thing, (change.relation,), fact.names, knows=(fact,))


def _have_same_name(names: Iterable[str], other_names: Iterable[str]) -> bool:
    """Return whether some name is in both, apart from case, accents and articles."""
    spellings = {normalised(name) for name in names}
    other_spellings = {normalised(name) for name in other_names}
    return not spellings.isdisjoint(other_spellings)


def select(proposals: Sequence[Proposal], usable: Iterable[Proposal], *, seed: int, name: str) -> list[Proposal]:
    """Return the first ``usable`` questions of each kind in hash order (`MOST`), in the order of ``proposals``."""
    chosen = set[int]()  # by identity, because two questions may be equal
    groups: dict[tuple[Kind, bool], list[Proposal]] = {}
    for question in usable:
        groups.setdefault((question.kind, bool(question.lacks)), []).append(question)
    for (kind, _), questions in groups.items():
        drawn = sorted(questions, key=lambda question: hash_of(seed, name, question.start, *question.hops))
        chosen.update(id(question) for question in drawn[: MOST[kind]])
    return [question for question in proposals if id(question) in chosen]
