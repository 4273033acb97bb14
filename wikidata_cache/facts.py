"""What a source says about many nodes, fetched in batches, kept, and stripped of housekeeping."""

from collections import Counter
from collections.abc import Collection, Container, Iterable
from itertools import chain

from wikidata_cache.ids import Statement
from wikidata_cache.source import Source


class Facts:
    """A source's answers, each asked for once; absent answers are remembered too."""

    def __init__(self, source: Source, *, meta: Container[str], internal: Collection[str]) -> None:
        self.source = source
        self._meta = meta
        self._internal = frozenset(internal)
        self._out: dict[str, list[tuple[str, str]]] = {}
        self._types: dict[str, frozenset[str]] = {}
        self._labels: dict[str, str | None] = {}

    def out(self, ids: Collection[str]) -> dict[str, list[tuple[str, str]]]:
        """All statements of the ids, housekeeping included; [] for none."""
        missing = [entity for entity in ids if entity not in self._out]
        self._out |= {entity: [] for entity in missing} | self.source.out(missing)
        return {entity: self._out[entity] for entity in ids}

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """The labels of those ids that have one."""
        ids = list(ids)
        missing = [entity for entity in ids if entity not in self._labels]
        self._labels |= dict.fromkeys(missing) | self.source.labels(missing)
        return {entity: label for entity in ids if (label := self._labels[entity]) is not None}

    def types(self, ids: Collection[str]) -> dict[str, frozenset[str]]:
        """What each id is an instance of; an empty set for none."""
        missing = [entity for entity in ids if entity not in self._types]
        self._types |= dict.fromkeys(missing, frozenset()) | self.source.types(missing)
        return {entity: self._types[entity] for entity in ids}

    def is_internal(self, entity: str) -> bool:
        """Whether an item serves Wikimedia itself, such as a disambiguation page."""
        return not self._internal.isdisjoint(self.types([entity])[entity])

    def prefetch(self, ids: Collection[str]) -> None:
        """Fetch what `usable` needs to know about these nodes, in as few requests as possible."""
        pairs = [(p, o) for p, o in chain.from_iterable(self.out(ids).values()) if p not in self._meta]
        self.types({o for _, o in pairs})
        self.labels({entity for pair in pairs for entity in pair})

    def usable(self, node: str, *, named: Container[str], dropped: Counter[str]) -> list[Statement]:
        """The statements of a prefetched node that speak of the world and can be put into words.

        Statements with a housekeeping property, to a Wikimedia-internal item, or without a label are counted
        in `dropped` instead; entities in `named` have a label from elsewhere.
        """
        kept = []
        for relation, target in self._out[node]:
            reason = self._objection(relation, target, named)
            if reason is None:
                kept.append(Statement(node, relation, target))
            else:
                dropped[reason] += 1
        return kept

    def _objection(self, relation: str, target: str, named: Container[str]) -> str | None:
        if relation in self._meta:
            return "meta_property"
        if self._types[target] & self._internal:
            return "internal_item"
        if self._labels[relation] is None:
            return "unlabelled_property"
        return "unlabelled_item" if self._labels[target] is None and target not in named else None
