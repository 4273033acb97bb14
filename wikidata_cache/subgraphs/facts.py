"""What a source says about many ids, fetched in batches, kept, and stripped of housekeeping."""

from collections import Counter
from collections.abc import Collection, Container, Iterable
from itertools import chain

from wikidata_cache.ids import Statement, check_ids
from wikidata_cache.sources import templates
from wikidata_cache.sources.answer import Json, Kind
from wikidata_cache.sources.source import Source
from wikidata_cache.sources.templates import Template


class Facts:
    """A source's answers, each asked for once; absent answers are remembered too."""

    def __init__(self, source: Source, *, meta: Container[str], internal: Collection[str]) -> None:
        self.source = source
        self._meta = meta
        self._internal = frozenset(internal)
        self._known: dict[Kind, dict[str, Json]] = {kind: {} for kind in templates.TEMPLATES}

    def out(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """All (property, object) pairs of the ids, housekeeping included; [] for none."""
        return {entity: [(p, o) for p, o in pairs] for entity, pairs in self._ask(templates.OUT, ids).items()}

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """The labels of those ids that have one: en, else mul, en-gb, en-ca, en-us, simple."""
        return {entity: found[0] for entity, found in self._ask(templates.LABELS, ids).items() if found}

    def descriptions(self, ids: Iterable[str]) -> dict[str, str]:
        """The descriptions of those ids that have one."""
        return {entity: text for entity, text in self._ask(templates.DESCRIPTIONS, ids).items() if text}

    def types(self, ids: Iterable[str]) -> dict[str, frozenset[str]]:
        """What each id is an instance of; an empty set for none."""
        return {entity: frozenset(kinds) for entity, kinds in self._ask(templates.TYPES, ids).items()}

    def named(self, labels: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The items and properties with exactly this label (case matters), sorted; () for none."""
        return {label: tuple(found) for label, found in self._fetch(templates.NAMED, set(labels)).items()}

    def mentioned(self, ids: Iterable[str]) -> frozenset[str]:
        """Those of the ids that some statement has as its value."""
        return frozenset(entity for entity, is_so in self._ask(templates.MENTIONED, ids).items() if is_so)

    def is_internal(self, entity: str) -> bool:
        """Whether an item serves Wikimedia itself, such as a disambiguation page."""
        return not self._internal.isdisjoint(self.types([entity])[entity])

    def prefetch(self, ids: Iterable[str]) -> None:
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
        for relation, target in self._known["out"][node]:
            reason = self._objection(relation, target, named)
            if reason is None:
                kept.append(Statement(node, relation, target))
            else:
                dropped[reason] += 1
        return kept

    def _objection(self, relation: str, target: str, named: Container[str]) -> str | None:
        if relation in self._meta:
            return "meta_property"
        if not self._internal.isdisjoint(self._known["types"][target]):
            return "internal_item"
        if self._known["label"][relation] is None:
            return "unlabelled_property"
        return "unlabelled_item" if self._known["label"][target] is None and target not in named else None

    def _ask(self, template: Template, ids: Iterable[str]) -> dict[str, Json]:
        return self._fetch(template, set(check_ids(ids)))

    def _fetch(self, template: Template, ids: Collection[str]) -> dict[str, Json]:
        known = self._known[template.kind]
        if missing := sorted(entity for entity in ids if entity not in known):
            for answer in self.source.ask(template, missing):
                for kind, entity, value in answer.facts:
                    self._known[kind][entity] = value
        return {entity: known[entity] for entity in ids}
