"""Endpoints that are made when they are first asked, so that a cache that knows everything needs no contact."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from wikidata_cache.sources.facts import Answer, Row
from wikidata_cache.sources.source import Provenance, Source
from wikidata_cache.sources.templates import Template


class LaterSource:
    """A `Source` called `name` that `make` makes when a question is about to be asked; raises what `make` raises."""

    def __init__(self, name: str, make: Callable[[], Source]) -> None:
        self._name = name
        self._make = make
        self._made: Source | None = None

    @property
    def name(self) -> str:
        """The name of what will be asked."""
        return self._name

    def ready(self) -> Source:
        """The source itself."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The source's own account."""
        return self.ready().provenance(ids)

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """The source's answers."""
        return self.ready().ask(template, ids)

    def select(self, query: str) -> Sequence[Row]:
        """The source's rows."""
        return self.ready().select(query)
