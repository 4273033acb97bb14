"""A cache over a local graph: the cache is read first, and the graph says what the cache lacks. Nothing is written."""

from collections.abc import Iterable, Iterator, Sequence

from wikidata_cache.answers.asking import from_cache
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.errors import CacheMissError
from wikidata_cache.sources.facts import Answer, Fact, Row
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Provenance
from wikidata_cache.sources.templates import Template


class CacheOverGraph:
    """A `Source` of an offline `cache` and a `graph` on this machine."""

    def __init__(self, cache: CachedSource, graph: OxigraphSource) -> None:
        self.cache = cache
        self.graph = graph

    @property
    def name(self) -> str:
        """The names of both."""
        return f"{self.cache.name} over {self.graph.name}"

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Where both have their statements from; the cache's part is about the ids."""
        return {"kind": "cache over graph", "cache": self.cache.provenance(ids), "graph": self.graph.provenance()}

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """What the cache knows, then what the graph says of the rest. Raises CacheFileError.

        A label that was never looked up names what either of them calls so.
        """
        known = self.cache.known(template, ids)
        if known:
            yield from_cache(template, known)
        for answer in self.graph.ask(template, [entity for entity in ids if entity not in known]):
            # What the graph says by the way, of other ids, may be better known to the cache.
            yield Answer(template.name, [self._joined(fact) for fact in answer.facts if fact.kind == template.kind])

    def select(self, query: str) -> Sequence[Row]:
        """The rows that the cache has kept, else those of the graph. Raises what the graph raises."""
        try:
            return self.cache.select(query)
        except CacheMissError:
            return self.graph.select(query)

    def _joined(self, fact: Fact) -> Fact:
        if fact.kind != "named":
            return fact
        return fact._replace(value=sorted({*fact.value, *self.cache.labelled(fact.id)}))
