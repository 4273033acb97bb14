"""`Facts`: a source's answers about many ids, asked in batches, kept in memory, and freed of housekeeping statements.

Statements with a property or to a class of the deny-lists, and those that cannot be put into words, are filtered out
(`usable`). `Claim` is a full statement, of any rank but deprecated, with the times for which it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable
from typing import NamedTuple

from wikidata_cache.errors import TruthyOnlyError
from wikidata_cache.ids import Statement, check_ids, is_text
from wikidata_cache.sources import templates
from wikidata_cache.sources.source import Json, Kind, Source, Template
from wikidata_cache.subgraphs.sampling import other_end


class Facts:
    """The answers of `source`, each asked for once; that there is none is remembered as well.

    `meta` are properties and `internal` classes of items whose statements `usable` leaves out (`deny_lists.py`).
    """

    def __init__(self, source: Source, *, meta: Container[str], internal: Collection[str]) -> None:
        self.source = source
        self._meta = meta
        self._internal = frozenset(internal)
        self.warned: set[str] = set()  # new objects for which a warning about missing labels was logged
        self._known: dict[Kind, dict[str, Json]] = {kind: {} for kind in templates.TEMPLATES}

    @property
    def internal(self) -> frozenset[str]:
        """The classes of Wikimedia-internal items."""
        return self._internal

    def out(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """All (property, object) pairs of the ids, housekeeping included; [] for none."""
        return {entity: [(p, o) for p, o in pairs] for entity, pairs in self._ask(templates.OUT, ids).items()}

    def incoming(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]] | None]:
        """All (subject, property) pairs that have the ids as their value; None for a hub (`queries.HUB`)."""
        found = self._ask(templates.IN, ids)
        return {entity: None if pairs is None else [(s, p) for s, p in pairs] for entity, pairs in found.items()}

    def degrees(self, ids: Iterable[str]) -> dict[str, int]:
        """How many statements have each of the ids as their value, counted up to one more than a hub has."""
        return dict(self._ask(templates.DEGREE, ids))

    def claims(self, ids: Iterable[str]) -> dict[str, list[Claim]]:
        """The statements of the ids of every rank but deprecated, with their times; [] for none."""
        return {entity: [Claim(*c) for c in found] for entity, found in self._ask(templates.CLAIMS, ids).items()}

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """The labels of those ids that have one: en, else mul, en-gb, en-ca, en-us, simple."""
        return {entity: found[0] for entity, found in self._ask(templates.LABELS, ids).items() if found}

    def label(self, entity: str) -> str | None:
        """The label of one id, or None."""
        known = self._known["label"]
        found = known[entity] if entity in known else self._ask(templates.LABELS, [entity])[entity]
        return found[0] if found else None

    def descriptions(self, ids: Iterable[str]) -> dict[str, str]:
        """The descriptions of those ids that have one."""
        return {entity: text for entity, text in self._ask(templates.DESCRIPTIONS, ids).items() if text}

    def types(self, ids: Iterable[str]) -> dict[str, frozenset[str]]:
        """{id: classes of which it is an instance (P31)}; an empty set for none."""
        return {entity: frozenset(kinds) for entity, kinds in self._ask(templates.TYPES, ids).items()}

    def named(self, labels: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The items and properties with exactly this label (case matters), sorted; () for none."""
        wanted = set(labels)
        found = self._fetch(templates.NAMED, {label for label in wanted if is_text(label)})
        return {label: tuple(found.get(label, ())) for label in wanted}

    def mentioned(self, ids: Iterable[str]) -> frozenset[str]:
        """Those of the ids that are the value of some statement."""
        return frozenset(entity for entity, is_so in self._ask(templates.MENTIONED, ids).items() if is_so)

    def redirects(self, ids: Iterable[str]) -> dict[str, str]:
        """{id: item into which it was merged}, for those that were."""
        return {entity: target for entity, target in self._ask(templates.REDIRECTS, ids).items() if target}

    def ends(self, ends: Iterable[str]) -> dict[str, Json]:
        """{end: [entities, [[type, count], ...]]} of ends of relations such as "P19 object" (`Fact`, kind "ends")."""
        return self._fetch(templates.ENDS, set(ends))

    def at_ends(self, places: Iterable[str]) -> dict[str, bool]:
        """{place: whether the item is at that end of the relation}, for places such as "P19 object Q65"."""
        return self._fetch(templates.AT_END, set(places))

    def is_internal(self, entity: str) -> bool:
        """Whether an item is of an internal class of Wikimedia, such as a disambiguation page."""
        return not self._internal.isdisjoint(self.types([entity])[entity])

    def states(self, statement: Statement) -> bool:
        """Whether the graph holds a truthy statement."""
        return statement[1:] in self.out([statement.subject])[statement.subject]

    def stated(self, node: str, *, incoming: bool, claims: bool) -> list[Statement]:
        """All statements of a prefetched node, housekeeping included; of a hub without the incoming ones."""
        pairs = self._known["claims" if claims else "out"][node]
        found = dict.fromkeys(Statement(node, pair[0], pair[1]) for pair in pairs)
        for subject, relation in (self._known["in"][node] or ()) if incoming else ():
            found[Statement(subject, relation, node)] = None
        return list(found)

    def is_hub(self, node: str) -> bool:
        """Whether a prefetched node has too many incoming statements to expand (`queries.HUB`)."""
        return self._known["in"].get(node, ()) is None

    def prefetch(self, ids: Collection[str], *, incoming: bool, claims: bool, also: Collection[str] = ()) -> None:
        """Fetch what `usable` needs to know about these nodes and the labels of others, in few requests.

        Raises TruthyOnlyError where `claims` are wanted of a node of which the source has only truthy statements.
        """
        stated = self.out(ids)
        if claims:
            full = self.claims(ids)
            if bare := [node for node in ids if stated[node] and not full[node]]:
                raise TruthyOnlyError(bare[0], self.source.name)
        if incoming:
            self.incoming(ids)
        found = ((s, other_end(s, node)) for node in ids for s in self.stated(node, incoming=incoming, claims=claims))
        pairs = [(statement.property, other) for statement, other in found if statement.property not in self._meta]
        self.types({other for _, other in pairs})
        self.labels({entity for pair in pairs for entity in pair}.union(ids, also))

    def usable(
        self, node: str, *, incoming: bool, claims: bool, named: Container[str], dropped: Counter[str]
    ) -> list[Statement]:
        """The statements of a prefetched node that are no housekeeping and whose parts have labels.

        Statements with a housekeeping property, to a Wikimedia-internal item, or without a label are counted
        in `dropped`, by reason; entities in `named` have a label from the edit.
        """
        kept = []
        for statement in self.stated(node, incoming=incoming, claims=claims):
            reason = self._drop_reason(statement.property, other_end(statement, node), named)
            if reason is None:
                kept.append(statement)
            else:
                dropped[reason] += 1
        return kept

    def _drop_reason(self, relation: str, other: str, named: Container[str]) -> str | None:
        if relation in self._meta:
            return "meta_property"
        if not self._internal.isdisjoint(self._known["types"][other]):
            return "internal_item"
        if self._known["label"][relation] is None:
            return "unlabelled_property"
        return "unlabelled_item" if self._known["label"][other] is None and other not in named else None

    def _ask(self, template: Template, ids: Iterable[str]) -> dict[str, Json]:
        return self._fetch(template, set(check_ids(ids)))

    def _fetch(self, template: Template, ids: Collection[str]) -> dict[str, Json]:
        known = self._known[template.kind]
        if missing := sorted(entity for entity in ids if entity not in known):
            for answer in self.source.ask(template, missing):
                for kind, entity, value in answer.facts:
                    self._known[kind][entity] = value
        return {entity: known[entity] for entity in ids}


class Claim(NamedTuple):
    """A full statement of an item: `rank` "preferred" or "normal"; times are xsd:dateTime texts, "" for none."""

    property: str
    object: str
    rank: str
    start: str
    end: str


def as_attributes(claims: Iterable[Claim]) -> dict[str, object]:
    """Edge attributes: `rank`, `start` and `end` of the best claim, and all `claims`, the best first.

    The best has the highest rank, then the latest start, then the latest end; no end counts as latest.
    """
    best_first = sorted(sorted(claims, key=_latest, reverse=True), key=lambda claim: claim.rank != "preferred")
    said = [{"rank": c.rank, "start": c.start or None, "end": c.end or None} for c in best_first]
    return {**said[0], "claims": said}


def _latest(claim: Claim) -> tuple[object, ...]:
    return _moment(claim.start), not claim.end, _moment(claim.end)


def _moment(time: str) -> tuple[int, str]:
    """An xsd:dateTime as (year, rest), for comparison; years BCE begin with a minus."""
    sign, digits = (-1, time[1:]) if time.startswith("-") else (1, time)
    year, _, rest = digits.partition("-")
    return (sign * int(year), rest) if year.isdigit() else (-(10**9), time)
