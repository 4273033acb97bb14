"""Questions about the ends of relations: what stands there as a rule, and whether an item does.

An end is written "P19 object", an item at an end "P19 object Q65".
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import DIRECT, local_id
from wikidata_cache.sources.facts import Fact, Row

Role = Literal["object", "subject"]

_SAMPLE = 1_000  # entities; their types are counted
_END = r"(P[1-9][0-9]*) (object|subject)"
_ENDS = re.compile(_END + "()", re.ASCII)
_PLACES = re.compile(_END + " (Q[1-9][0-9]*)", re.ASCII)
_TRIPLES = {"object": "?s <{direct}{relation}> ?e .", "subject": "?e <{direct}{relation}> ?o ."}


class Place(NamedTuple):
    """An end of a relation, and an item where one is asked about, else ""."""

    relation: str
    role: str
    item: str


def end_key(relation: str, role: Role) -> str:
    """How an end is written."""
    return f"{relation} {role}"


def place_of(key: str, *, item: bool) -> Place:
    """What "P19 object", or with `item` "P19 object Q65", says; raises BadOptionError where it is none."""
    found = (_PLACES if item else _ENDS).fullmatch(key)
    if found is None:
        expected = "P19 object Q65" if item else "P19 object"
        raise BadOptionError(f"{key!r} is no place at an end of a relation: expected something like {expected!r}.")
    return Place(*found.groups())


def ends_parts(ends: Sequence[str]) -> tuple[str, ...]:
    """The parts of a query for the types (r, e, t) of a sample of the entities at these ends.

    Which entities are in the sample is up to the engine; the types are the same for all but the rarest.
    """
    return tuple(
        f'{{ SELECT ("{end}" AS ?r) ?e ?t WHERE {{ {{ SELECT DISTINCT ?e WHERE {{ {_triple(place_of(end, item=False))} '
        f"FILTER(isIRI(?e)) }} LIMIT {_SAMPLE} }} ?e <{DIRECT}P31> ?t . FILTER(isIRI(?t)) }} }}"
        for end in sorted(ends)
    )


def at_end_parts(keys: Sequence[str]) -> tuple[str, ...]:
    """The parts of a query for those items (e) that stand at their end of a relation (r) somewhere."""
    places = sorted(place_of(key, item=True) for key in keys)
    parts = []
    for (relation, role), group in groupby(places, key=lambda place: place[:2]):
        items = list(group)
        names = " ".join(f"wd:{place.item}" for place in items)
        parts.append(f'VALUES ?e {{ {names} }} FILTER EXISTS {{ {_triple(items[0])} }} BIND("{relation} {role}" AS ?r)')
    return tuple(parts)


def read_ends(ends: Sequence[str], rows: Sequence[Row]) -> list[Fact]:
    """Facts [number of entities of known type, [[type, how many are of it], ...]]."""
    types: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        if "t" in row:
            types[row["r"]].add((local_id(row["e"]), local_id(row["t"])))
    return [Fact("ends", end, _counted(types[end])) for end in ends]


def read_at_end(keys: Sequence[str], rows: Sequence[Row]) -> list[Fact]:
    """Facts that say whether an item stands there."""
    found = {f"{row['r']} {local_id(row['e'])}" for row in rows if "e" in row}
    return [Fact("at_end", key, key in found) for key in keys]


def _counted(pairs: set[tuple[str, str]]) -> list[object]:
    counts = Counter(kind for _, kind in pairs)
    return [len({entity for entity, _ in pairs}), [[kind, n] for kind, n in sorted(counts.items())]]


def _triple(place: Place) -> str:
    return _TRIPLES[place.role].format(direct=DIRECT, relation=place.relation)
