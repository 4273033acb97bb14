"""The interface of all sources of statements and labels: questions (`Template`), `Fact`s, and `Source` itself.

A `Template` is a question about many ids: its SPARQL, and the function that turns rows into `Fact`s
(`sources/templates.py` has all templates). A `Source` answers templates. `SparqlSource` is the base class of sources
that answer SPARQL 1.1 SELECT. Answers are sorted and complete, so that different engines give equal answers. The one
exception is `templates.ENDS`, which is answered from a sample.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from wikidata_cache.errors import TruncatedAnswerError, WrongAnswerError
from wikidata_cache.sources.queries import read_answer_mark

Binding = Mapping[str, str]  # variable -> IRI or literal text; unbound variables are absent

Element = TypeVar("Element")

Json = Any  # plain JSON: None, bool, int, str, or lists of these

PlainKind = Literal[
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
    "sitelinks",
    "values",
]
LanguageKind = Literal["label_in", "description_in", "named_in"]
Kind = PlainKind | LanguageKind

Provenance = dict[str, object]  # plain JSON values


class Fact(NamedTuple):
    """Everything that a source knows of one id in one respect (`kind`). It is complete: "none" is a fact as well.

    Values by kind, all sorted:
    - "out": [[property, object], ...], the truthy item-valued statements of the id;
    - "in": [[subject, property], ...], the truthy statements with the id as value, or None for too many (a hub);
    - "degree": the number of statements of "in", counted up to `queries.HUB` + 1;
    - "claims": [[property, object, rank, start, end], ...], the item-valued statements of every rank except deprecated;
    - "types": [item, ...], the classes of which the id is an instance (P31);
    - "label": [text, language] or None; "description": text or None;
    - "named": [entity, ...], where `id` is a label; "mentioned": whether a statement has the id as its value;
    - "redirect": the item into which the id was merged, or None;
    - "ends": [n, [[type, count], ...]] of n entities of known type at an end, where `id` is such as "P19 object";
    - "at_end": whether an item is at that end of the relation, where `id` is such as "P19 object Q65";
    - "sitelinks": the number of pages about the item in Wikipedia and its sister projects, or None if it isn't there;
    - "values": [[property, value], ...], the truthy statements with a date or a quantity (`values.py`) as value;
    - "label_in", "description_in": [[code, text], ...] in a family of languages, where `id` is such as "Q42 zh";
    - "named_in": [entity, ...], where `id` is a label in a family of languages, such as "zh 北京".
    """

    kind: Kind
    id: str
    value: Json


@dataclass(frozen=True)
class Exchange:
    """One request to an endpoint and its answer."""

    url: str
    query: str  # the SPARQL text
    fetched_at: str  # UTC time in ISO 8601
    elapsed_ms: int
    rows: int  # without the mark at the end
    sha256: str  # of the body
    headers: Mapping[str, str]  # of the reply


@dataclass(frozen=True)
class Answer:
    """The complete answer to one query: a fact for every requested id, and further facts that its rows contain."""

    template: str
    facts: Sequence[Fact]
    exchange: Exchange | None = None  # None for an answer without a request


Reader = Callable[[Sequence[str], Sequence[Binding]], list[Fact]]  # (requested ids, rows) -> facts


@dataclass(frozen=True)
class Template:
    """A question about many ids in one query."""

    name: str  # ends in a version, which is part of the query log
    kind: Kind
    query: Callable[[Sequence[str]], str]  # the SPARQL for some ids
    read: Reader  # rows -> facts: one of `kind` for each requested id, and possibly others
    about: Callable[[Binding], str | None]  # the id that a row is about; None for a row of `OUT` about a value
    size: int = 200  # ids per query; 200 take about 5 kB, well below the common limit of 8 kB for a URL


@runtime_checkable
class Source(Protocol):
    """Anything that answers the questions of `templates.py`; answers are sorted, and complete except for `ENDS`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the source for messages: file names, a folder, a URL."""

    @abstractmethod
    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return where the statements of these ids come from, with hashes or times, as plain JSON values."""

    @abstractmethod
    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield answers as soon as they are known; together they have a fact of `template.kind` for every id."""

    @abstractmethod
    def select(self, query: str) -> Sequence[Binding]:
        """Return the rows of a user's own SELECT query, in any order."""


class SparqlSource(Source):
    """Base class of sources that answer SPARQL 1.1 SELECT; a subclass adds `name`, `provenance` and `select`."""

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield one answer for each block of `template.size` ids; raises the errors of `read_answer`."""
        for block in batches(ids, size=template.size):
            query = template.query(block)
            yield Answer(template.name, read_answer(template, block, query, self.select(query), self.name))


def batches(elements: Sequence[Element], *, size: int) -> Iterator[Sequence[Element]]:
    """Yield the elements in blocks of at most `size`, in order."""
    for start in range(0, len(elements), size):
        yield elements[start : start + size]


def read_answer(
    template: Template, ids: Sequence[str], query: str, rows: Sequence[Binding], name: str
) -> Sequence[Fact]:
    """Return the facts of an answer, after checking that it is complete and fits the query.

    Args:
        template: the question.
        ids: the ids in the query.
        query: the SPARQL text.
        rows: the answer.
        name: the source, for messages.
    """
    # Without the mark at its end, a cut-off answer would look like a short one.
    content = [row for row in rows if "end" not in row]
    if len(content) == len(rows):
        raise TruncatedAnswerError(name, len(rows))
    marks = {row["end"] for row in rows if "end" in row}
    if marks != {read_answer_mark(query)}:
        raise WrongAnswerError(name, "found the answer to another query (a proxy may ignore the query in the URL)")
    try:
        _check_requested(template, ids, content)
        return template.read(ids, content)
    except (KeyError, ValueError) as error:
        problem = f"found rows that do not fit the query ({type(error).__name__}: {error})"
        raise WrongAnswerError(name, problem) from error


def _check_requested(template: Template, ids: Sequence[str], rows: Sequence[Binding]) -> None:
    """Raise ValueError if a row is about an id that is not in the query; KeyError if it lacks a variable."""
    requested = set(ids)
    for row in rows:
        about = template.about(row)
        if about is None:  # a row of `OUT` about a value, which its reader checks
            continue
        if about not in requested:
            raise ValueError(f"a row about {about[:80]!r}, which was not requested")
