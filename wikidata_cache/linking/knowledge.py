"""What linking wants to know of entities, from a graph with a label index, or from its facts alone.

What a relation joins in a graph: the types of its values and of its subjects, from a sample.

A label index for a graph: the one beside a store, or one made on the fly from the graph's own names.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from wikidata_cache.answers.cached_source import CacheOverGraph
from wikidata_cache.errors import BadOptionError, CacheMissError, EndpointError, OfflineError
from wikidata_cache.ids import DIRECT, RDFS_LABEL, is_entity, is_item, is_property, local_id
from wikidata_cache.labels.label_index import EntityKind, LabelEntry, LabelIndex, Match, NameKind
from wikidata_cache.labels.names import normalise
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.queries import Role, end_key
from wikidata_cache.sources.source import Source
from wikidata_cache.subgraphs.facts import Facts

T = TypeVar("T")

_TYPE = "P31"
_SCANNED = 5_000_000  # labels that are looked through in about a second


@dataclass(frozen=True)
class About:
    """What is said of an entity: `types` and the values in `statements` are ids; `merged_into` a redirect's end.

    `statements` is None where an offline cache does not hold them.
    """

    label: str | None = None
    description: str | None = None
    types: frozenset[str] = frozenset()
    statements: frozenset[tuple[str, str]] | None = frozenset()
    merged_into: str | None = None


class Knowledge(Protocol):
    """Where candidates come from, and what is known of them."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def far(self) -> bool:
        """Whether a question costs a request, so that many are better asked together."""

    def ask_names(self, texts: Iterable[str]) -> None:
        """Ask for all of these names together, where that can be done, so that `named` knows them."""

    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """The entities that have the text as a name, and where there are fewer than `limit`, such with its words."""

    def near_properties(self, text: str) -> Sequence[Match]:
        """The properties with a name most like the text, where all names are at hand."""

    def about(self, ids: Iterable[str]) -> Mapping[str, About]:
        """What is known of each of the ids."""

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """The labels of those ids that have one."""


class GraphKnowledge:
    """Knowledge from a graph: its statements, and a label index where there is one.

    Without an index only labels that are written exactly so are found. What an offline answer cache does
    not hold counts as unknown.
    """

    def __init__(self, facts: Facts, index: LabelIndex | None = None) -> None:
        self.facts = facts
        self._index = index
        self._is_layered = isinstance(facts.source, CacheOverGraph)

    @property
    def name(self) -> str:
        """The graph's name."""
        return self.facts.source.name

    @property
    def far(self) -> bool:
        """Whether there is no index, as there is for every graph of this machine."""
        return self._index is None

    def ask_names(self, texts: Iterable[str]) -> None:
        """Ask for labels, many in a request; nothing is to be asked of an index."""
        if self._index is None:
            self.facts.named(text for text in texts if text)

    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """The entities that have the text as a name, and where there are fewer than `limit`, such with its words."""
        if self._index is None:
            return self._labelled(text, entity)
        found = {match.id: match for match in self._index.exact(text, limit=limit, entity=entity)}
        if len(found) < limit:
            for match in self._index.tokens(text, limit=limit, entity=entity):
                found.setdefault(match.id, match)
        if self._is_layered:  # the index knows the lower layer alone
            found = {match.id: match for match in self._labelled(text, entity)} | found
        return list(found.values())[:limit]

    def near_properties(self, text: str) -> Sequence[Match]:
        """The properties with a name most like the text; none without an index, or with one of millions of names."""
        if self._index is None or self._index.counts.labels > _SCANNED:
            return ()
        names = {normalise(match.text): match for match in reversed(self._index.properties())}  # the best one stays
        nearest = difflib.get_close_matches(normalise(text), names, n=5)
        return list({names[name].id: names[name] for name in nearest}.values())

    def about(self, ids: Iterable[str]) -> Mapping[str, About]:
        """What is known of each of the ids; nothing is an answer, too."""
        wanted = sorted(set(ids))
        items = [entity for entity in wanted if is_item(entity)]
        labels, descriptions = self._known(self.facts.labels, wanted), self._known(self.facts.descriptions, wanted)
        statements, merged = self._known(self.facts.out, items), self._known(self.facts.redirects, items)
        types = {entity: frozenset(o for p, o in pairs if p == _TYPE) for entity, pairs in statements.items()}
        untold = self._known(self.facts.types, [entity for entity in items if entity not in types])
        return {
            entity: About(
                labels.get(entity),
                descriptions.get(entity),
                types.get(entity) or untold.get(entity, frozenset()),
                frozenset(statements[entity]) if entity in statements else None if is_item(entity) else frozenset(),
                merged.get(entity),
            )
            for entity in wanted
        }

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """The labels of those ids that have one."""
        return self._known(self.facts.labels, sorted(set(ids)))

    def _labelled(self, text: str, entity: EntityKind) -> list[Match]:
        found = self.facts.named([text])[text] if text else ()
        return [Match(e, text, "", "label", 0) for e in found if is_entity(e) and is_item(e) == (entity == "item")]

    def _known(self, ask: Callable[[Iterable[str]], Mapping[str, T]], ids: Sequence[str]) -> Mapping[str, T]:
        """The facts of all ids; where a cache does not hold all of them, of those that it holds."""
        try:
            return ask(ids)
        except CacheMissError as miss:
            missing = set(miss.ids)
            return ask([entity for entity in ids if entity not in missing])
        except OfflineError:
            if len(ids) == 1:
                return {}
            return {entity: value for one in ids for entity, value in self._known(ask, [one]).items()}


_NOT_NOW = (CacheMissError, OfflineError, EndpointError)  # linking goes on without


@dataclass(frozen=True)
class Ends:
    """One end of a relation: which share of the `sampled` entities, all of known type, has each type."""

    relation: str
    role: Role
    sampled: int
    shares: Mapping[str, float]


def check_relation(relation: str) -> None:
    """Raise BadOptionError for what is no property id."""
    if not is_property(relation):
        raise BadOptionError(
            f"relation={relation!r}: expected a property id such as P551. To find the id of a property, link its "
            f'name with kind="property" (--kind property).'
        )


def sample_ends(facts: Facts, relation: str, role: Role) -> Ends | None:
    """The types at one end of a relation, or None where the graph has none of it or cannot be asked now.

    Raises BadOptionError for what is no property id.
    """
    check_relation(relation)
    end = end_key(relation, role)
    try:
        sampled, counts = facts.ends([end])[end]
    except _NOT_NOW:
        return None
    return Ends(relation, role, sampled, {kind: n / sampled for kind, n in counts}) if sampled else None


def stated_there(facts: Facts, relation: str, role: Role, ids: Collection[str]) -> frozenset[str]:
    """Those of the ids that stand at this end of the relation somewhere in the graph."""
    places = {f"{end_key(relation, role)} {entity}": entity for entity in ids if is_item(entity)}
    try:
        found = facts.at_ends(places)
    except _NOT_NOW:
        return frozenset()
    return frozenset(entity for place, entity in places.items() if found[place])


def ask_ahead(facts: Facts, candidates: Mapping[tuple[str, Role], Collection[str]]) -> None:
    """Ask about all of these ends of relations, and about the candidates for them, in as few requests as possible."""
    ends = {end_key(*end): ids for end, ids in candidates.items()}
    with suppress(*_NOT_NOW):
        sampled = facts.ends(ends)
        shown = {end: ids for end, ids in ends.items() if sampled[end][0]}
        facts.at_ends(f"{end} {entity}" for end, ids in shown.items() for entity in ids if is_item(entity))


logger = logging.getLogger(__name__)

_ALIAS = "http://www.w3.org/2004/02/skos/core#altLabel"
_KINDS: tuple[tuple[NameKind, str], ...] = (("label", RDFS_LABEL), ("alias", _ALIAS))
_NAMES = "SELECT ?e ?l (LANG(?l) AS ?lang) WHERE {{ ?e <{predicate}> ?l . FILTER(isLiteral(?l)) }}"
_NUMBERS = (
    f"SELECT ?s (COUNT(*) AS ?n) WHERE {{ ?s ?p ?o . FILTER(isIRI(?o)) "
    f'FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) }} GROUP BY ?s'
)


def open_index(source: Source) -> LabelIndex | None:
    """The index beside a store, else one of a local graph's own names; None for endpoints and their caches.

    Of a cache over a local graph it is the graph's. Raises LabelIndexError for an index that cannot be read.
    """
    source = source.graph if isinstance(source, CacheOverGraph) else source
    if not isinstance(source, OxigraphSource):
        return None
    return LabelIndex(source.label_file) if source.label_file else index_of(source)


def index_of(source: Source) -> LabelIndex:
    """An index in memory of all labels and aliases of an embedded graph, in every language.

    About ten seconds for half a million names; `wikidata-cache load` keeps such an index on disk.
    """
    logger.debug("Making a label index of %s", source.name)
    return LabelIndex.in_memory(_names(source), weights=_numbers(source))


def _names(source: Source) -> Iterator[LabelEntry]:
    for kind, predicate in _KINDS:
        for row in source.select(_NAMES.format(predicate=predicate)):
            if is_entity(entity := local_id(row["e"])):
                yield LabelEntry(entity, row["l"], row.get("lang", ""), kind)


def _numbers(source: Source) -> Iterator[tuple[str, int]]:
    for row in source.select(_NUMBERS):
        yield local_id(row["s"]), int(row["n"])
