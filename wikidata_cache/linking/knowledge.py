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
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.queries import Role, write_item_at_end, write_relation_end
from wikidata_cache.sources.source import Source
from wikidata_cache.sources.templates import match_words
from wikidata_cache.stores.ntriples import KIND_IRIS
from wikidata_cache.subgraphs.facts import Facts, look_up_or_skip

logger = logging.getLogger(__name__)

_TYPE = "P31"

# What a source raises if it cannot answer now. After these errors, linking continues without the answer.
NOT_NOW = (CacheMissError, OfflineError, EndpointError)

_NAME_KINDS: tuple[NameKind, ...] = ("label", "alias")
_COUNT_STATEMENTS = (  # the number of statements of each item
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

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known about the entity: no text, no statement and no redirect."""
        return self in (EntityInfo(), EntityInfo(statements=None))


class Knowledge(ABC):
    """A provider of entities by name, and of facts about entities; `name` is for messages."""

    name: str
    is_remote = True  # a question costs a request, so that questions should be sent together

    def prefetch_names(self, texts: Iterable[str]) -> None:
        """Fetch all of these names together, if possible, so that `named` needs no request."""
        return

    @abstractmethod
    def named(self, text: str, *, limit: int, kind: EntityKind) -> Sequence[Match]:
        """Return the entities that a text may name; each class says how it searches, and what `limit` limits."""

    def nearest(self, text: str, *, kind: EntityKind) -> Sequence[Match]:
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
        # With an answer cache over a local graph, the index has the graph's names alone. So labels are asked for, too.
        self._has_cache_over_graph = isinstance(facts.source, FallbackSource)

    def prefetch_names(self, texts: Iterable[str]) -> None:
        """Fetch the entities with these labels, many per request; do nothing if an index has them all."""
        if self._index is None or self._has_cache_over_graph:
            self.facts.named(text for text in texts if text)  # `Facts` keeps the answers

    def named(self, text: str, *, limit: int, kind: EntityKind) -> Sequence[Match]:
        """Return at most `limit` entities with this name; if there are fewer, add entities whose name has all words.

        Without an index, return all entities with exactly this label, however many.
        """
        if self._index is None:
            return self._find_by_label(text, kind)
        indexed = {match.id: match for match in self._index.find_exact(text, limit=limit, kind=kind)}
        if len(indexed) < limit:
            for match in self._index.find_by_words(text, limit=limit, kind=kind):
                indexed.setdefault(match.id, match)
        if not self._has_cache_over_graph:
            return list(indexed.values())[:limit]

        # Entities with exactly this label come first. Where the index has one, its match counts, as it has a weight.
        matches = list[Match]()
        for match in self._find_by_label(text, kind):
            matches.append(indexed.get(match.id, match))
            indexed.pop(match.id, None)  # so that it is not added again below
        return [*matches, *indexed.values()][:limit]

    def nearest(self, text: str, *, kind: EntityKind) -> Sequence[Match]:
        """Return the entities with a name that is one letter away from the text; () without an index of names."""
        if self._index is None:
            return ()
        return self._index.find_nearest(text, kind=kind)

    def info(self, ids: Iterable[str]) -> Mapping[str, EntityInfo]:
        """Return the facts about each of the ids."""
        ids = sorted(set(ids))
        items = [entity for entity in ids if is_item(entity)]
        labels = self.labels(ids)
        descriptions = look_up_or_skip(self.facts.descriptions, ids)
        statements = look_up_or_skip(self.facts.out, items)
        merged = look_up_or_skip(self.facts.redirects, items)
        types = {}
        for entity, pairs in statements.items():
            types[entity] = frozenset(target for relation, target in pairs if relation == _TYPE)
        # An offline cache may hold the types of an item without its statements.
        without_statements = [entity for entity in items if entity not in statements]
        types |= look_up_or_skip(self.facts.types, without_statements)

        infos = {}
        for entity in ids:
            # None: an offline cache lacks the statements of this item. A property has none, and none are asked for.
            stated: frozenset[tuple[str, str]] | None = None
            if entity in statements:
                stated = frozenset(statements[entity])
            elif not is_item(entity):
                stated = frozenset()
            infos[entity] = EntityInfo(
                label=labels.get(entity),
                description=descriptions.get(entity),
                types=types.get(entity, frozenset()),
                statements=stated,
                merged_into=merged.get(entity),
            )
        return infos

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return {id: label} for the ids that have a label; offline, the English one where no other is in the cache."""
        ids = list(ids)
        return look_up_or_skip(self.facts.default_labels, ids) | look_up_or_skip(self.facts.labels, ids)

    def _find_by_label(self, text: str, kind: EntityKind) -> list[Match]:
        """Return the items, or the properties, with exactly this label."""
        if not text:
            return []
        is_wanted = is_property
        if kind == "item":
            is_wanted = is_item
        matches = []
        for entity in self.facts.named([text])[text]:
            if is_wanted(entity):
                matches.append(Match(id=entity, text=text, language="", kind="label", weight=0))
        return matches


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
    end = write_relation_end(relation, role)
    sampled, counts = facts.ends([end])[end]
    if not sampled:
        return None
    shares = {type_id: count / sampled for type_id, count in counts}
    return RelationEndTypes(relation=relation, role=role, sampled=sampled, shares=shares)


def find_items_at_end(facts: Facts, relation: str, role: Role, ids: Collection[str]) -> frozenset[str]:
    """Return those of the ids that are known to be at this end of the relation in a statement of the graph."""
    items_by_key = {write_item_at_end(relation, role, entity): entity for entity in ids if is_item(entity)}
    answers = look_up_or_skip(facts.at_ends, items_by_key)
    return frozenset(items_by_key[key] for key, is_there in answers.items() if is_there)


def open_index(source: Source, *, languages: Languages = DEFAULT_LANGUAGES) -> LabelIndex | None:
    """Return the index next to a store, else a new index of a local graph; None for endpoints and their caches.

    Only names in these languages are found. In a store loaded with every triple, names in all languages are found.

    For a cache over a local graph, return the index of the graph. A new index is in memory; it takes about
    ten seconds for half a million names, so `wikidata-cache load` writes one to disk.
    """
    if isinstance(source, FallbackSource):
        source = source.graph
    if not isinstance(source, OxigraphSource):
        return None
    if source.label_file:
        wanted: Languages | None = languages
        if source.finds_every_language:
            wanted = None
        return LabelIndex(source.label_file, languages=wanted)
    logger.debug("Indexing the labels of %s", source.name)
    numbers = ((local_id(row["s"]), int(row["n"])) for row in source.select(_COUNT_STATEMENTS))
    return LabelIndex.in_memory(_select_names(source, languages), weights=numbers)


def _select_names(source: Source, languages: Languages) -> Iterator[LabelEntry]:
    """Yield all labels and aliases of a graph in these languages."""
    for name_kind in _NAME_KINDS:
        pattern = match_words("e", f"<{KIND_IRIS[name_kind]}>", languages)
        for row in source.select(f"SELECT ?e ?l ?lang WHERE {{ {pattern} }}"):
            entity = local_id(row["e"])
            if is_entity(entity):
                yield LabelEntry(id=entity, text=row["l"], language=row["lang"], kind=name_kind)
