"""Read the facts of a graph for a Ripples benchmark: an item's objects by relation, its current object, its names.

Statements are read for many items at once and cached. The *current* object of (s, r) is the only object that is left
after objects of the past are removed: those of a former class, and those that were replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kg_edit.evaluation.ripples.words import RippleWords
from wikidata_cache import WikidataCache

_ENTITY = "http://www.wikidata.org/entity/"
_DIRECT = "http://www.wikidata.org/prop/direct/"
_ALIAS = "http://www.w3.org/2004/02/skos/core#altLabel"
_KIND = "P31"
_REPLACED_BY = "P1366"
_REPLACES = "P1365"
_PAIRS = 20_000  # pairs of a relation, at most: enough to choose from, and few enough for an endpoint
_AT_ONCE = 400  # items in a query for aliases
_NAME = 30  # characters of a usable alias, at most
_NAMES = 4  # names of an item to use, at most


@dataclass(frozen=True, eq=False)
class FactTable:
    """The statements, labels and aliases of items, read from any source of `WikidataCache`."""

    graph: WikidataCache
    words: RippleWords
    _read: set[str] = field(default_factory=set)
    _objects: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    _labels: dict[str, str] = field(default_factory=dict)
    _aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _incoming: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def pairs(self, relation: str) -> list[tuple[str, str]]:
        """Return all (s, o) of a relation, at most the first 20,000 in the order of their ids."""
        rows = self.graph.query(f"SELECT ?s ?o WHERE {{ ?s <{_DIRECT}{relation}> ?o }} ORDER BY ?s ?o LIMIT {_PAIRS}")
        return [(_id(row["s"]), _id(row["o"])) for row in rows if _is_item(row["s"]) and _is_item(row["o"])]

    def read(self, items: Iterable[str]) -> None:
        """Read the statements of ``items`` and of their objects, and the labels and aliases of all of these."""
        new = set(items) - self._read
        self._read.update(new)
        self._read_statements(new)
        objects = set[str]()
        for item in new:
            objects.update(*self._objects[item].values())
        self._read_statements(objects)
        unnamed = sorted({*new, *objects} - self._aliases.keys())
        self._labels.update(self.graph.labels(unnamed))
        self._aliases.update(dict.fromkeys(unnamed, ()))
        for start in range(0, len(unnamed), _AT_ONCE):
            values = " ".join(f"<{_ENTITY}{item}>" for item in unnamed[start : start + _AT_ONCE])
            rows = self.graph.query(
                f"SELECT ?s ?a WHERE {{ VALUES ?s {{ {values} }} ?s <{_ALIAS}> ?a "
                'FILTER(LANG(?a) = "en") } ORDER BY ?s ?a'
            )
            for row in rows:
                self._aliases[_id(row["s"])] += (row["a"],)

    def _read_statements(self, items: Iterable[str]) -> None:
        new = sorted(set(items) - self._objects.keys())
        for item, pairs in self.graph.facts.out(new).items():
            objects: dict[str, list[str]] = {}
            for relation, target in pairs:
                objects.setdefault(relation, []).append(target)
                self._incoming.setdefault(target, []).append((relation, item))
            self._objects[item] = {relation: tuple(targets) for relation, targets in objects.items()}

    def objects(self, item: str, relation: str) -> tuple[str, ...]:
        """Return the labelled objects of a relation; () for an item that was not read, or is not in the graph."""
        return tuple(o for o in self.relations(item).get(relation, ()) if o in self._labels)

    def relations(self, item: str) -> Mapping[str, tuple[str, ...]]:
        """Return all statements of an item that has been read: its objects by relation."""
        return self._objects.get(item, {})

    def ends(self, item: str, first: str, second: str) -> frozenset[str]:
        """Return the ends of all paths item -first-> … -second-> end, also of the past and without a label."""
        ends = set[str]()
        for middle in self.relations(item).get(first, ()):
            ends.update(self.relations(middle).get(second, ()))
        return frozenset(ends)

    def current(self, item: str, relation: str) -> str | None:
        """Return the only object that is not of the past; None if there is none, or several, or it has no label."""
        remaining = [o for o in self.relations(item).get(relation, ()) if self.is_now(o)]
        if len(remaining) != 1 or remaining[0] not in self._labels:
            return None
        return remaining[0]

    def is_now(self, item: str) -> bool:
        """Return whether, by the statements read, an item is neither of the past nor an internal page of Wikimedia."""
        statements = self.relations(item)
        if _REPLACED_BY in statements or item in self._replaced:
            return False
        former = {*self.words.former, *self.graph.facts.internal}
        return former.isdisjoint(statements.get(_KIND, ()))

    @cached_property
    def _replaced(self) -> frozenset[str]:
        """All items that another item "replaces", as the euro does the escudo."""
        return frozenset(o for _, o in self.pairs(_REPLACES))

    def follow(self, item: str, hops: Sequence[str]) -> tuple[str, ...] | None:
        """Return the items on a path of current objects, beginning with ``item``; None if the path breaks off."""
        path = [item]
        for hop in hops:
            end = self.current(path[-1], hop)
            if end is None:
                return None
            path.append(end)
        return tuple(path)

    def read_items(self) -> list[str]:
        """Return all items with a label whose statements have been read."""
        return [item for item in self._objects if item in self._labels]

    def leads_to(self, item: str) -> list[tuple[str, str]]:
        """Return (relation, thing) of all statements thing -relation-> item that were read."""
        return sorted(self._incoming.get(item, []))  # the source gives statements in no order

    def classes(self, item: str) -> frozenset[str]:
        """Return the classes of an item that has been read."""
        return frozenset(self._objects[item].get(_KIND, ()))

    def label(self, item: str) -> str | None:
        """Return the English label."""
        return self._labels.get(item)

    def names(self, item: str) -> tuple[str, ...]:
        """Return the label, then up to three usable aliases; aliases that share a word with the label come first."""
        label = self._labels[item]
        words = set(label.casefold().split())

        def rank(alias: str) -> tuple[bool, int, str]:
            return words.isdisjoint(alias.casefold().split()), len(alias), alias

        aliases = sorted(filter(_is_usable, self._aliases[item]), key=rank)
        return tuple(dict.fromkeys([label, *aliases]))[:_NAMES]

    def mentions(self, items: Iterable[str]) -> Mapping[str, int]:
        """Return the number of statements with each item as object (up to 500), a measure of how well known it is."""
        return self.graph.facts.degrees(items)


def _is_usable(alias: str) -> bool:
    """Return whether an alias reads as a name in a question.

    It does not if it is a code ("de", or the picture of a flag; "US" is a name), is long, or has an addition ("London,
    England").
    """
    letters = 0
    for character in alias:
        letters += character.isalpha()
    is_initials = letters > 1 and alias.isupper()
    if letters <= 3 and not is_initials:
        return False
    return len(alias) <= _NAME and set("(),/:").isdisjoint(alias)


def _is_item(iri: str) -> bool:
    return iri.startswith(f"{_ENTITY}Q")


def _id(iri: str) -> str:
    return iri.removeprefix(_ENTITY)
