"""What linking wants to know of entities, from a graph with a label index, or from its facts alone."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from wikidata_cache.answers.over_graph import CacheOverGraph
from wikidata_cache.errors import CacheMissError, OfflineError
from wikidata_cache.ids import is_entity, is_item
from wikidata_cache.labels.label_index import EntityKind, LabelIndex, Match
from wikidata_cache.labels.names import normalise
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
