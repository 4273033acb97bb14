"""What a source answers: facts about ids, and the exchange with an endpoint that they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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


class Fact(NamedTuple):
    """All that a source says of one id in one respect; a fact is whole, and absence is a fact too.

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
    """One request to an endpoint and what is worth knowing of its answer. `fetched_at` is UTC, ISO 8601."""

    url: str
    query: str
    fetched_at: str
    elapsed_ms: int
    rows: int
    sha256: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """The complete answer to one query: the facts of every id that was asked for, and facts met on the way."""

    template: str
    facts: Sequence[Fact]
    exchange: Exchange | None = None  # None for what never left the machine
