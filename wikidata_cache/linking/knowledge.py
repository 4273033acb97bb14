"""The information that linking needs: names, facts about entities, and the types at the ends of a relation.

`Knowledge` is the interface. `GraphKnowledge` answers from a graph, with a label index (`open_index`) or with exact
labels only. `online.py` answers from Wikidata's API. Facts that are not available offline count as unknown.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kg_common.ids import is_entity, is_item, is_property
from wikidata_cache.answers.cached_source import FallbackSource
from wikidata_cache.errors import BadOptionError, CacheMissError, EndpointError, OfflineError
from wikidata_cache.ids import DIRECT, local_id
from wikidata_cache.labels.label_index import EntityKind, LabelEntry, LabelIndex, Match, NameKind
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.queries import Role
from wikidata_cache.sources.source import Source
from wikidata_cache.sources.templates import match_words
from wikidata_cache.stores.ntriples import KIND_IRIS
from wikidata_cache.subgraphs.facts import Facts, where_known

logger = logging.getLogger(__name__)

_TYPE = "P31"

NOT_NOW = (CacheMissError, OfflineError, EndpointError)  # after these errors, linking continues without the answer

_KINDS: tuple[NameKind, ...] = ("label", "alias")
_NUMBERS = (
    f"SELECT ?s (COUNT(*) AS ?n) WHERE {{ ?s ?p ?o . FILTER(isIRI(?o)) "
    f'FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) }} GROUP BY ?s'
)


@dataclass(frozen=True)
class EntityInfo:
    """The facts about an entity: `types` (P31) are ids, `statements` are pairs (property, item).

    `statements` is None if an offline cache lacks them. `merged_into` is the item into which the entity was merged, or
    None.
    """

    label: str | None = None
    description: str | None = None
    types: frozenset[str] = frozenset()
    statements: frozenset[tuple[str, str]] | None = frozenset()
    merged_into: str | None = None


class Knowledge(ABC):
    """A provider of entities by name, and of facts about entities; `name` is for messages."""

    name: str
    is_remote = True  # a question costs a request, so that questions should be sent together

    def prefetch_names(self, texts: Iterable[str]) -> None:
        """Fetch all of these names together, if possible, so that `named` needs no request."""
        return

    @abstractmethod
    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """Return at most `limit` entities with this name; if there are fewer, add entities whose name has all words."""

    def nearest(self, text: str, *, entity: EntityKind) -> Sequence[Match]:
        """Return the entities with a name that is one letter away from the text; () without an index of names."""
        return ()

    @abstractmethod
    def info(self, ids: Iterable[str]) -> Mapping[str, EntityInfo]:
        """Return the facts about each of the ids."""

    @abstractmethod
    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return {id: label} for the ids that have a label."""


class GraphKnowledge(Knowledge):
    """Knowledge from a graph: its statements, and a label index if there is one.

    Without an index, only exact labels are found. Facts that an offline answer cache does not hold count as unknown.
    """

    def __init__(self, facts: Facts, index: LabelIndex | None = None) -> None:
        self.name = facts.source.name
        self.is_remote = index is None  # local graphs have an index, endpoints do not
        self.facts = facts
        self._index = index
        self._is_layered = isinstance(facts.source, FallbackSource)

    def prefetch_names(self, texts: Iterable[str]) -> None:
        """Fetch the entities with these labels, many per request; do nothing if an index has them all."""
        if self._index is None or self._is_layered:
            self.facts.named(text for text in texts if text)

    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """Return at most `limit` entities with this name; if there are fewer, add entities whose name has all words."""
        if self._index is None:
            return self._labelled(text, entity)
        matches = {match.id: match for match in self._index.exact(text, limit=limit, entity=entity)}
        if len(matches) < limit:
            for match in self._index.tokens(text, limit=limit, entity=entity):
                matches.setdefault(match.id, match)
        if self._is_layered:  # the index covers only the local graph, not the cache over it
            matches = {match.id: match for match in self._labelled(text, entity)} | matches
        return list(matches.values())[:limit]

    def nearest(self, text: str, *, entity: EntityKind) -> Sequence[Match]:
        """Return the entities with a name that is one letter away from the text; () without an index of names."""
        if self._index is None:
            return ()
        return self._index.nearest(text, entity=entity)

    def info(self, ids: Iterable[str]) -> Mapping[str, EntityInfo]:
        """Return the facts about each of the ids."""
        ids = sorted(set(ids))
        items = [entity for entity in ids if is_item(entity)]
        labels = where_known(self.facts.labels, ids)
        descriptions = where_known(self.facts.descriptions, ids)
        statements = where_known(self.facts.out, items)
        merged = where_known(self.facts.redirects, items)
        types = {}
        for entity, pairs in statements.items():
            types[entity] = frozenset(target for relation, target in pairs if relation == _TYPE)
        # An offline cache may hold the types of an item without its statements.
        more = where_known(self.facts.types, [entity for entity in items if entity not in types])
        infos = {}
        for entity in ids:
            stated: frozenset[tuple[str, str]] | None = frozenset()
            if entity in statements:
                stated = frozenset(statements[entity])
            elif is_item(entity):
                stated = None
            infos[entity] = EntityInfo(
                labels.get(entity),
                descriptions.get(entity),
                types.get(entity) or more.get(entity, frozenset()),
                stated,
                merged.get(entity),
            )
        return infos

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return {id: label} for the ids that have a label."""
        return where_known(self.facts.labels, ids)

    def _labelled(self, text: str, entity: EntityKind) -> list[Match]:
        if not text:
            return []
        is_kind = is_property
        if entity == "item":
            is_kind = is_item
        return [Match(found, text, "", "label", 0) for found in self.facts.named([text])[text] if is_kind(found)]


@dataclass(frozen=True)
class RelationEndTypes:
    """The types of the entities at one end of a relation.

    `sampled` is the number of sampled entities of known type; `shares` maps each type to its share of them.
    """

    relation: str
    role: Role
    sampled: int
    shares: Mapping[str, float]


def sample_end_types(facts: Facts, relation: str, role: Role) -> RelationEndTypes | None:
    """Return the types at one end of a relation, or None if the graph has none there."""
    if not is_property(relation):
        raise BadOptionError(
            f"relation={relation!r}: expected a property id such as P551. To find the id of a property, link its "
            f'name with kind="property" (--kind property).'
        )
    end = f"{relation} {role}"
    sampled, counts = facts.ends([end])[end]
    if not sampled:
        return None
    return RelationEndTypes(relation, role, sampled, {kind: count / sampled for kind, count in counts})


def items_at_end(facts: Facts, relation: str, role: Role, ids: Collection[str]) -> frozenset[str]:
    """Return those of the ids that are known to be at this end of the relation in a statement of the graph."""
    keys = {f"{relation} {role} {entity}": entity for entity in ids if is_item(entity)}
    at_end = where_known(facts.at_ends, keys)
    return frozenset(entity for key, entity in keys.items() if at_end.get(key))


def open_index(source: Source) -> LabelIndex | None:
    """Return the index next to a store, else a new index of a local graph; None for endpoints and their caches.

    For a cache over a local graph, return the index of the graph. A new index is in memory; it takes about
    ten seconds for half a million names, so `wikidata-cache load` writes one to disk.
    """
    if isinstance(source, FallbackSource):
        source = source.graph
    if not isinstance(source, OxigraphSource):
        return None
    if source.label_file:
        return LabelIndex(source.label_file)
    logger.debug("Indexing the labels of %s", source.name)
    numbers = ((local_id(row["s"]), int(row["n"])) for row in source.select(_NUMBERS))
    return LabelIndex.in_memory(_select_names(source), weights=numbers)


def _select_names(source: Source) -> Iterator[LabelEntry]:
    """Yield all labels and aliases in a graph."""
    for kind in _KINDS:
        pattern = match_words("e", f"<{KIND_IRIS[kind]}>")
        for row in source.select(f"SELECT ?e ?l ?lang WHERE {{ {pattern} }}"):
            entity = local_id(row["e"])
            if is_entity(entity):
                yield LabelEntry(entity, row["l"], row["lang"], kind)
