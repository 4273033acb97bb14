"""What every source of statements and labels answers: facts about ids, in one shape, through one interface.

A `Template` is a question about many ids: its SPARQL, and how rows become `Fact`s (`sources/templates.py` has all of
them). A `Source` answers templates; `SparqlSource` is the base for anything that answers SPARQL 1.1 SELECT. Answers
are sorted and complete, so that answers of different engines compare equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from wikidata_cache.errors import TruncatedAnswerError, WrongAnswerError
from wikidata_cache.sources.queries import end_mark

Binding = Mapping[str, str]  # variable -> IRI or literal text; unbound variables are absent

Json = Any  # plain JSON: None, bool, str, or lists of these

Kind = Literal[
    "out",
    "in",
    "degree",
    "claims",
    "types",
    "label",
    "description",
    "named",
    "mentioned",
    "redirect",
    "ends",
    "at_end",
]

Provenance = dict[str, object]  # plain JSON values


class Fact(NamedTuple):
    """All that a source says of one id in one respect (`kind`): complete, so that "none" is a fact as well.

    Values by kind, all sorted:
    - "out": [[property, object], ...], the truthy item-valued statements of the id;
    - "in": [[subject, property], ...], the same by their object, or None where there are too many (a hub);
    - "degree": how many statements of "in" there are, counted up to one more than a hub has;
    - "claims": [[property, object, rank, start, end], ...], statements of every rank but deprecated;
    - "types": [item, ...], what the id is an instance of (P31);
    - "label": [text, language] or None; "description": text or None;
    - "named": [entity, ...] where `id` is a label; "mentioned": whether a statement has the id as its value;
    - "redirect": the item into which the id was merged, or None;
    - "ends": [n, [[type, count], ...]] of n entities at an end of a relation, where `id` is "P19 object";
    - "at_end": whether an item stands there, where `id` is "P19 object Q65".
    """

    kind: Kind
    id: str
    value: Json


@dataclass(frozen=True)
class Exchange:
    """One request to an endpoint and its answer: time (UTC, ISO 8601), rows, sha256 of the body, headers."""

    url: str
    query: str
    fetched_at: str
    elapsed_ms: int
    rows: int
    sha256: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """The complete answer to one query: the facts of every id asked for, and others that its rows hold as well."""

    template: str
    facts: Sequence[Fact]
    exchange: Exchange | None = None  # None for what never left the machine


Reader = Callable[[Sequence[str], Sequence[Binding]], list[Fact]]  # the ids asked for, the rows -> facts


@dataclass(frozen=True)
class Template:
    """A question about up to `size` ids in one query. `name` ends in a version, which the query log keeps.

    `query` gives the SPARQL for some ids; `read` turns its rows into facts: one of `kind` for each id asked for, and
    maybe others. `about` says which of the ids a row is about, None for a row about none of them.
    """

    name: str
    kind: Kind
    query: Callable[[Sequence[str]], str]
    read: Reader
    about: Callable[[Binding], str | None]
    size: int = 200  # ids in a query: 5 kB, well under the common 8 kB limit of a URL


@runtime_checkable
class Source(Protocol):
    """Anything that answers the questions of `templates.py`; answers are sorted and complete."""

    @property
    def name(self) -> str:
        """The source as messages name it: file names, a folder, a URL."""

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Where the statements of these ids come from, with hashes or times, as plain JSON values."""

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Answers that together hold a fact of `template.kind` for every id, each yielded as soon as it is known."""

    def select(self, query: str) -> Sequence[Binding]:
        """The rows of a user's own SELECT query."""


class SparqlSource(ABC):
    """Base of sources that answer SPARQL 1.1 SELECT; a subclass adds `name`, `provenance` and `select`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The source as messages name it."""

    @abstractmethod
    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Where the statements of these ids come from, as plain JSON values."""

    @abstractmethod
    def select(self, query: str) -> Sequence[Binding]:
        """The rows of a SELECT query, in any order."""

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """One answer for each `template.size` ids; raises what `read_answer` raises."""
        for block in batches(ids, size=template.size):
            query = template.query(block)
            yield Answer(template.name, read_answer(template, block, query, self.select(query), self.name))


def batches(ids: Sequence[str], *, size: int) -> Iterator[Sequence[str]]:
    """The ids in blocks of at most `size`, in order."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def read_answer(
    template: Template, ids: Sequence[str], query: str, rows: Sequence[Binding], name: str
) -> Sequence[Fact]:
    """The facts of an answer of the source `name` that is whole and speaks of these ids alone.

    Raises TruncatedAnswerError where the end mark (`?end`, `queries.py`) is missing, WrongAnswerError where it is that
    of another question, or a row is about an id that was not asked for or lacks what the query selects.
    """
    kept = [row for row in rows if "end" not in row]
    if len(kept) == len(rows):
        raise TruncatedAnswerError(name, len(rows))
    if {row["end"] for row in rows if "end" in row} != {end_mark(query)}:
        raise WrongAnswerError(name, "the answer to another question (a proxy may ignore the query in the URL)")
    try:
        _forbid_others(kept, ids, template)
        return template.read(ids, kept)
    except (KeyError, ValueError) as error:
        raise WrongAnswerError(name, f"rows that do not fit the query ({type(error).__name__}: {error})") from error


def _forbid_others(rows: Sequence[Binding], ids: Sequence[str], template: Template) -> None:
    """Raise ValueError for a row about an id that was not asked for."""
    asked = {None, *ids}
    if other := next((row for row in rows if template.about(row) not in asked), None):
        raise ValueError(f"a row about {str(template.about(other))[:80]!r}, which was not asked for")
