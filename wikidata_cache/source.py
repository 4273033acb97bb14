"""Where statements and labels come from: one interface, and what every SPARQL engine shares."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from wikidata_cache import queries
from wikidata_cache.ids import check_ids, is_entity, is_item, is_property, local_id

Row = Mapping[str, str]  # variable -> IRI or literal text; unbound variables are absent
Provenance = dict[str, object]  # plain JSON values


@runtime_checkable
class Source(Protocol):
    """Truthy item-valued statements and labels, by id. Answers are sorted, so backends compare."""

    @property
    def name(self) -> str:
        """How messages call this source: file names, a folder, a URL."""

    def provenance(self) -> Provenance:
        """What was read, with hashes or times, as plain JSON values."""

    def out(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """The (property id, object id) pairs of each id, sorted; ids without statements are absent."""

    def types(self, ids: Iterable[str]) -> dict[str, frozenset[str]]:
        """What each id is an instance of (P31); ids without a type are absent."""

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """The label of each item or property; ids without one are absent."""

    def find(self, label: str) -> tuple[str, ...]:
        """The items and properties with exactly this label, sorted."""

    def mentions(self, entity: str) -> bool:
        """Whether any statement has this entity as its value."""


class SparqlSource(ABC):
    """A `Source` over anything that answers SPARQL SELECT; an engine adds only `select` and its names."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How messages call this source."""

    @abstractmethod
    def provenance(self) -> Provenance:
        """What was read, as plain JSON values."""

    @abstractmethod
    def select(self, query: str) -> Sequence[Row]:
        """The rows of a SELECT query, in any order."""

    def out(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """The (property id, object id) pairs of each id, sorted; ids without statements are absent."""
        found: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for block in queries.batches(check_ids(ids)):
            for row in self.select(queries.out_query(block)):
                pair = local_id(row["p"]), local_id(row["o"])
                if is_property(pair[0]) and is_item(pair[1]):
                    found[local_id(row["s"])].add(pair)
        return {entity: sorted(found[entity]) for entity in sorted(found)}

    def types(self, ids: Iterable[str]) -> dict[str, frozenset[str]]:
        """What each id is an instance of (P31); ids without a type are absent."""
        found: dict[str, set[str]] = defaultdict(set)
        for block in queries.batches(check_ids(ids)):
            for row in self.select(queries.types_query(block)):
                found[local_id(row["s"])].add(local_id(row["o"]))
        return {entity: frozenset(found[entity]) for entity in sorted(found)}

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """The label of each id: en, else mul, en-gb, en-ca, en-us, simple; ids without one are absent."""
        ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for block in queries.batches(check_ids(ids)):
            for row in self.select(queries.labels_query(block)):
                if row["l"].strip():
                    ranked[local_id(row["e"])].append((queries.LANGUAGES.index(row["lang"]), row["l"]))
        return {entity: min(ranked[entity])[1] for entity in sorted(ranked)}

    def find(self, label: str) -> tuple[str, ...]:
        """The items and properties with exactly this label (case matters), sorted."""
        rows = self.select(queries.find_query(label))
        return tuple(sorted(filter(is_entity, {local_id(row["e"]) for row in rows})))

    def mentions(self, entity: str) -> bool:
        """Whether any statement has this entity as its value."""
        return bool(self.select(queries.mentioned_query(*check_ids([entity]))))
