"""What all SPARQL queries of this package share: portable SPARQL 1.1, the same for embedded stores and endpoints.

The queries use no label service, no hints, no RAND, no implicit prefixes, no empty VALUES, and no LIMIT where the
choice of rows would matter (except `ENDS`, which counts the types of a sample). Ids inside VALUES are sorted, so that
equal questions are equal texts. Every answer ends with its mark, a special row that sorts last: its variable `?end` has
a digest of the query as value. If this row is missing, the answer was cut off. If the value differs, the answer belongs
to another query (a proxy may ignore the query string).

Where a question is not about an id alone, its key is a text of several words:

    "P19 object"        an end of a relation
    "P19 object Q65"    an item at an end of a relation
    "Q42 zh"            the words of an entity in a family of languages
    "zh 北京"            a label in a family of languages; the label comes last, since it may have spaces
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal, NamedTuple

from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import ENTITY

Role = Literal["object", "subject"]

RELATION_END = re.compile("(P[1-9][0-9]*) (object|subject)", re.ASCII)
ITEM_AT_END = re.compile("(P[1-9][0-9]*) (object|subject) (Q[1-9][0-9]*)", re.ASCII)
WORDS_OF = re.compile("([PQ][1-9][0-9]*) ([a-z]+)", re.ASCII)
NAMED_IN = re.compile("([a-z]+) (.+)", re.ASCII | re.DOTALL)

# The variables with literals; others have IRIs. ?end is the mark of an answer, and ?end_time the end of a claim.
LITERALS = frozenset(("l", "lang", "n", "r", "start", "end_time", "v", "precision", "end"))
_DIGITS = 16  # hex digits of the digest in the last row of an answer

HUB = 500  # an item with more incoming statements is not expanded along them

_PREFIX = f"PREFIX wd: <{ENTITY}> "


class RelationEnd(NamedTuple):
    """An end of a relation."""

    relation: str  # id of the property
    role: str  # "object" or "subject"


def write_relation_end(relation: str, role: Role) -> str:
    """Return the text that names an end of a relation, such as "P19 object"."""
    return f"{relation} {role}"


def write_item_at_end(relation: str, role: Role, item: str) -> str:
    """Return the text that names an item at an end of a relation, such as "P19 object Q65"."""
    return f"{relation} {role} {item}"


def parse_relation_end(key: str) -> RelationEnd:
    """Parse an end of a relation, such as "P19 object"."""
    match = RELATION_END.fullmatch(key)
    if match is None:
        raise BadOptionError(f"{key!r} is not an end of a relation: expected a text such as 'P19 object'.")
    return RelationEnd(match[1], match[2])


def parse_item_at_end(key: str) -> tuple[RelationEnd, str]:
    """Return the end of a relation and the item in a text such as "P19 object Q65"."""
    match = ITEM_AT_END.fullmatch(key)
    if match is None:
        raise BadOptionError(f"{key!r} is not an end of a relation: expected a text such as 'P19 object Q65'.")
    return RelationEnd(match[1], match[2]), match[3]


def write_words_of(entity: str, family: str) -> str:
    """Return the text that names the words of an entity in a family of languages, such as "Q42 zh"."""
    return f"{entity} {family}"


def write_named_in(label: str, family: str) -> str:
    """Return the text that names what is called so in a family of languages, such as "zh 北京"."""
    return f"{family} {label}"


def parse_words_of(key: str) -> tuple[str, str]:
    """Return (id, family) of a text such as "Q42 zh"."""
    return _parse_pair(WORDS_OF, key, "'Q42 zh'")


def parse_named_in(key: str) -> tuple[str, str]:
    """Return (family, label) of a text such as "zh 北京"."""
    return _parse_pair(NAMED_IN, key, "'zh 北京'")


def _parse_pair(pattern: re.Pattern[str], key: str, example: str) -> tuple[str, str]:
    match = pattern.fullmatch(key)
    if match is None:
        raise BadOptionError(f"{key!r} does not name words in a language: expected a text such as {example}.")
    return match[1], match[2]


def write_marked_select(variables: str, *parts: str) -> str:
    """Return a SELECT query of the union of these group patterns.

    Its answer ends with a digest of the query, more exactly of its variables and patterns:

        SELECT ... WHERE { ... UNION { BIND("0123456789abcdef" AS ?end) } } ORDER BY ?end

    All other rows have no `?end`. SPARQL sorts unbound values first, so the row with the digest is the last one.
    """
    union = " UNION ".join(f"{{ {part} }}" for part in parts)
    digest = _digest(f"{variables} {union}")
    mark = f'{{ BIND("{digest}" AS ?end) }}'
    return f"{_PREFIX}SELECT {variables} ?end WHERE {{ {union} UNION {mark} }} ORDER BY ?end"


def echo_query(query: str) -> tuple[str, dict[str, str]]:
    """Return a query whose only row has a digest of `query`, and that row.

    It is sent after a user's query, which has no mark, to see that the endpoint answers the query that it gets.
    """
    digest = _digest(query)
    return f'SELECT ?echo WHERE {{ BIND("{digest}" AS ?echo) }}', {"echo": digest}


def read_answer_mark(query: str) -> str:
    """Return the digest in a query of `write_marked_select`: the value of `?end` in the last row of its answer."""
    _, _, from_digest = query.rpartition('BIND("')
    return from_digest[:_DIGITS]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
