"""The SPARQL queries of this package: portable SPARQL 1.1, the same for embedded stores and endpoints.

The queries use no label service, no hints, no RAND, no implicit prefixes, no empty VALUES, and no LIMIT where the
choice of rows would matter. Ids inside VALUES are sorted, so that equal questions are equal texts. Every answer ends
with a special row (`?end`), which sorts last. If this row is missing, the answer was cut off. Its value is a digest of
the query. If the value differs, the answer belongs to another query (a proxy may ignore the query string).

An end of a relation is written "P19 object", an item at an end "P19 object Q65".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import DIRECT, ENTITY, LANGUAGES, RDFS_LABEL

Role = Literal["object", "subject"]

_SAMPLE = 1_000  # entities to sample at an end of a relation, to count their types
_END = r"(P[1-9][0-9]*) (object|subject)"
_ENDS = re.compile(_END + "()", re.ASCII)
_PLACES = re.compile(_END + " (Q[1-9][0-9]*)", re.ASCII)
_TRIPLES = {"object": "?s <{direct}{relation}> ?e .", "subject": "?e <{direct}{relation}> ?o ."}

LITERALS = frozenset(("l", "lang", "n", "r", "start", "end_time", "end"))  # variables with literals; others have IRIs
_DIGITS = 16  # hex digits of the digest in the last row of an answer

HUB = 500  # an item with more incoming statements is not expanded along them

_PREFIX = f"PREFIX wd: <{ENTITY}> "
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_WANTED = ", ".join(f'"{language}"' for language in LANGUAGES)
_RDFS_LABEL = f"<{RDFS_LABEL}>"
_DESCRIPTION = "<http://schema.org/description>"
_SAME_AS = "<http://www.w3.org/2002/07/owl#sameAs>"
_RANK = "http://wikiba.se/ontology#"
_WIKIDATA = "http://www.wikidata.org/"


class RelationEnd(NamedTuple):
    """An end of a relation: property id, "object" or "subject", and an item id at this end, or ""."""

    relation: str
    role: str
    item: str


def relation_end_key(relation: str, role: Role) -> str:
    """Return the key of an end of a relation, such as "P19 object"."""
    return f"{relation} {role}"


def parse_relation_end(key: str, *, item: bool) -> RelationEnd:
    """Parse "P19 object", or with `item` "P19 object Q65"; raises BadOptionError for any other text."""
    found = (_PLACES if item else _ENDS).fullmatch(key)
    if found is None:
        expected = "P19 object Q65" if item else "P19 object"
        raise BadOptionError(f"{key!r} is not an end of a relation: expected a text such as {expected!r}.")
    return RelationEnd(*found.groups())


def out_query(ids: Sequence[str]) -> str:
    """Return the query for all truthy item-valued statements of these ids, with labels and types of their values.

    Rows: s, p, o (statements); e, l, lang (labels of the values); e, t (types of the values).
    """
    subjects = _names(ids)
    statements = f"VALUES ?s {{ {subjects} }} ?s ?p ?o . {_item_valued('p', 'o')}"
    # Each part repeats this subquery: engines that evaluate bottom-up would otherwise join with every label there is.
    objects = f"{{ SELECT DISTINCT ?e WHERE {{ VALUES ?x {{ {subjects} }} ?x ?q ?e . {_item_valued('q', 'e')} }} }}"
    labels, types = f"{objects} {_worded('e', _RDFS_LABEL)}", f"{objects} ?e <{DIRECT}P31> ?t"
    return marked_select("?s ?p ?o ?e ?l ?lang ?t", statements, labels, types)


def in_query(ids: Sequence[str]) -> str:
    """Return the query for the truthy statements with these ids as values, at most HUB + 1 per id: rows e, p, s."""
    parts = (
        f"{{ SELECT (wd:{entity} AS ?e) ?p ?s WHERE {{ ?s ?p wd:{entity} . "
        f"{_item_valued('p', 's')} }} LIMIT {HUB + 1} }}"
        for entity in sorted(ids)
    )
    return marked_select("?e ?p ?s", *parts)


def degree_query(ids: Sequence[str]) -> str:
    """Return the query for the number of truthy statements with these ids as values, up to HUB + 1: rows e, n."""
    parts = (
        f"{{ SELECT (wd:{entity} AS ?e) (COUNT(?s) AS ?n) WHERE {{ {{ SELECT ?s WHERE {{ ?s ?p wd:{entity} . "
        f"{_item_valued('p', 's')} }} LIMIT {HUB + 1} }} }} }}"
        for entity in sorted(ids)
    )
    return marked_select("?e ?n", *parts)


def claims_query(ids: Sequence[str]) -> str:
    """Return the query for all item-valued statements of these ids that are not deprecated.

    Rows: s, p, o, rank, start, end_time.
    """
    of_a_property = f'FILTER(STRSTARTS(STR(?c), "{_WIKIDATA}prop/P")) FILTER(STRSTARTS(STR(?p), "{_WIKIDATA}prop/'
    times = (
        f"OPTIONAL {{ ?n <{_WIKIDATA}prop/qualifier/{prop}> ?{name} FILTER(isLiteral(?{name})) }}"
        for prop, name in (("P580", "start"), ("P582", "end_time"))
    )
    return marked_select(
        "?s ?p ?o ?rank ?start ?end_time",
        f"VALUES ?s {{ {_names(ids)} }} ?s ?c ?n . ?n <{_RANK}rank> ?rank . ?n ?p ?o . {of_a_property}"
        f'statement/P")) {_item("o")} FILTER(?rank != <{_RANK}DeprecatedRank>) {" ".join(times)}',
    )


def types_query(ids: Sequence[str]) -> str:
    """Return the query for the classes of which these ids are instances (P31): rows s, o."""
    return marked_select("?s ?o", f"VALUES ?s {{ {_names(ids)} }} ?s <{DIRECT}P31> ?o")


def labels_query(ids: Sequence[str]) -> str:
    """Return the query for the labels of these ids in the languages of LANGUAGES: rows e, l, lang."""
    return marked_select("?e ?l ?lang", f"VALUES ?e {{ {_names(ids)} }} {_worded('e', _RDFS_LABEL)}")


def descriptions_query(ids: Sequence[str]) -> str:
    """Return the query for the descriptions of these ids in the languages of LANGUAGES: rows e, l, lang."""
    return marked_select("?e ?l ?lang", f"VALUES ?e {{ {_names(ids)} }} {_worded('e', _DESCRIPTION)}")


def named_query(labels: Sequence[str]) -> str:
    """Return the query for the entities with exactly one of these labels in a language of LANGUAGES: rows e, l."""
    quoted = (
        '"' + "".join(_ESCAPES.get(character, character) for character in label) + '"' for label in sorted(labels)
    )
    wanted = " ".join(f"{label}@{language}" for label in quoted for language in LANGUAGES)
    return marked_select(
        "?e ?l", f'VALUES ?l {{ {wanted} }} ?e {_RDFS_LABEL} ?l . FILTER(STRSTARTS(STR(?e), "{ENTITY}"))'
    )


def mentioned_query(ids: Sequence[str]) -> str:
    """Return the query for those of these ids that are the value of at least one truthy statement: rows e."""
    stated = f'?s ?p ?e FILTER(STRSTARTS(STR(?p), "{DIRECT}P"))'
    return marked_select("?e", f"VALUES ?e {{ {_names(ids)} }} FILTER EXISTS {{ {stated} }}")


def redirects_query(ids: Sequence[str]) -> str:
    """Return the query for the items into which these ids were merged: rows s, o."""
    return marked_select("?s ?o", f"VALUES ?s {{ {_names(ids)} }} ?s {_SAME_AS} ?o . {_item('o')}")


def ends_query(ends: Sequence[str]) -> str:
    """Return the query for the types of a sample of the entities at these ends of relations: rows r, e, t.

    The engine chooses which 1,000 entities it samples. Between engines, the shares of types agree, except of rare ones.
    """
    parts = (
        f'{{ SELECT ("{end}" AS ?r) ?e ?t WHERE {{ {{ SELECT DISTINCT ?e WHERE {{ '
        f"{_triple(parse_relation_end(end, item=False))} FILTER(isIRI(?e)) }} LIMIT {_SAMPLE} }} "
        f"?e <{DIRECT}P31> ?t . FILTER(isIRI(?t)) }} }}"
        for end in sorted(ends)
    )
    return marked_select("?r ?e ?t", *parts)


def at_end_query(keys: Sequence[str]) -> str:
    """Return the query for those of these places at which the item is at that end of the relation: rows r, e."""
    places = sorted(parse_relation_end(key, item=True) for key in keys)
    parts = []
    for (relation, role), group in groupby(places, key=lambda place: place[:2]):
        items = list(group)
        names = " ".join(f"wd:{place.item}" for place in items)
        parts.append(f'VALUES ?e {{ {names} }} FILTER EXISTS {{ {_triple(items[0])} }} BIND("{relation} {role}" AS ?r)')
    return marked_select("?r ?e", *parts)


def _triple(place: RelationEnd) -> str:
    return _TRIPLES[place.role].format(direct=DIRECT, relation=place.relation)


def marked_select(variables: str, *parts: str) -> str:
    """Return a SELECT query of the union of these group patterns. Its answer ends with a digest of the query."""
    asked = " UNION ".join(f"{{ {part} }}" for part in parts)
    digest = hashlib.sha256(f"{variables} {asked}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    end = f'{{ BIND("{digest}" AS ?end) }}'
    return f"{_PREFIX}SELECT {variables} ?end WHERE {{ {asked} UNION {end} }} ORDER BY ?end"


def echo_query(query: str) -> tuple[str, dict[str, str]]:
    """Return a query whose only row has a digest of ``query``, and that row."""
    digest = hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f'SELECT ?echo WHERE {{ BIND("{digest}" AS ?echo) }}', {"echo": digest}


def end_mark(query: str) -> str:
    """Return the value of `?end` in the last row of the answer to a query of this module."""
    return query.rpartition('BIND("')[2][:_DIGITS]


def _names(ids: Iterable[str]) -> str:
    return " ".join(f"wd:{entity}" for entity in sorted(ids))


def _item(variable: str) -> str:
    return f'FILTER(isIRI(?{variable})) FILTER(STRSTARTS(STR(?{variable}), "{ENTITY}Q"))'


def _item_valued(property_: str, value: str) -> str:
    return f'{_item(value)} FILTER(STRSTARTS(STR(?{property_}), "{DIRECT}P"))'


def _worded(variable: str, predicate: str) -> str:
    return f"?{variable} {predicate} ?l . BIND(LCASE(LANG(?l)) AS ?lang) FILTER(?lang IN ({_WANTED}))"
