"""Where statements and labels come from: one interface, and what every SPARQL engine shares."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from wikidata_cache.errors import TruncatedAnswerError
from wikidata_cache.sources.facts import Answer, Row
from wikidata_cache.sources.templates import Template

Provenance = dict[str, object]  # plain JSON values


@runtime_checkable
class Source(Protocol):
    """Whatever answers the questions of `templates.py`. Answers are sorted and whole, so backends compare."""

    @property
    def name(self) -> str:
        """How messages call this source: file names, a folder, a URL."""

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Where the statements of these ids came from, with hashes or times, as plain JSON values."""

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Answers that together have a fact of `template.kind` for every id, each as soon as it is there."""

    def select(self, query: str) -> Sequence[Row]:
        """The rows of a user's own SELECT query."""


class SparqlSource(ABC):
    """A `Source` over anything that answers SPARQL SELECT; an engine adds only `select` and its names."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How messages call this source."""

    @abstractmethod
    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Where the statements of these ids came from, as plain JSON values."""

    @abstractmethod
    def select(self, query: str) -> Sequence[Row]:
        """The rows of a SELECT query, in any order."""

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """One answer for each `template.size` ids; raises TruncatedAnswerError where one lacks its end."""
        for block in batches(ids, size=template.size):
            rows = whole(self.select(template.query(block)), self.name)
            yield Answer(template.name, template.read(block, rows))


def batches(ids: Sequence[str], *, size: int) -> Iterator[Sequence[str]]:
    """Cut ids into blocks of at most `size`, in order."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def whole(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows without the one that marks the answer's end; raises TruncatedAnswerError where that is missing."""
    kept = [row for row in rows if "end" not in row]
    if len(kept) == len(rows):
        raise TruncatedAnswerError(name, len(rows))
    return kept
