"""What a relation joins in a graph: the types of its values and of its subjects, from a sample."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from wikidata_cache.errors import BadOptionError, CacheMissError, EndpointError, OfflineError
from wikidata_cache.ids import DIRECT, ENTITY, is_item, is_property, local_id
from wikidata_cache.sources.source import Source

Role = Literal["object", "subject"]

_SAMPLE = 1_000  # entities; their types are counted

# Which entities are in the sample is up to the engine; the types are the same for all but the rarest.
_TYPES = """
SELECT ?e ?t WHERE {{ {{ SELECT DISTINCT ?e WHERE {{ {triple} FILTER(isIRI(?e)) }} LIMIT {sample} }}
  ?e <{direct}P31> ?t . FILTER(isIRI(?t)) }}
"""
_PRESENT = "SELECT ?e WHERE {{ VALUES ?e {{ {ids} }} FILTER EXISTS {{ {triple} }} }}"


@dataclass(frozen=True)
class Ends:
    """One end of a relation: which share of the `sampled` entities, all of known type, has each type."""

    relation: str
    role: Role
    sampled: int
    shares: Mapping[str, float]


def check_relation(relation: str) -> None:
    """Raise BadOptionError for what is no property id."""
    if not is_property(relation):
        raise BadOptionError(
            f"relation={relation!r}: expected a property id such as P551. To find the id of a property, link its "
            f'name with kind="property" (--kind property).'
        )


def sample_ends(source: Source, relation: str, role: Role) -> Ends | None:
    """The types at one end of a relation, or None where the graph has none of it or cannot be asked now.

    Raises BadOptionError for what is no property id.
    """
    check_relation(relation)
    query = _TYPES.format(triple=_triple(relation, role), sample=_SAMPLE, direct=DIRECT)
    types: dict[str, set[str]] = {}
    try:
        for row in source.select(query):
            types.setdefault(local_id(row["e"]), set()).add(local_id(row["t"]))
    except (CacheMissError, OfflineError, EndpointError):
        return None
    counts: dict[str, int] = {}
    for kind in (kind for kinds in types.values() for kind in kinds):
        counts[kind] = counts.get(kind, 0) + 1
    shares = {kind: n / len(types) for kind, n in sorted(counts.items())}
    return Ends(relation, role, len(types), shares) if types else None


def stated_there(source: Source, relation: str, role: Role, ids: Collection[str]) -> frozenset[str]:
    """Those of the ids that stand at this end of the relation somewhere in the graph."""
    items = " ".join(f"<{ENTITY}{entity}>" for entity in sorted(ids) if is_item(entity))
    if not items:
        return frozenset()
    try:
        rows = source.select(_PRESENT.format(ids=items, triple=_triple(relation, role)))
    except (CacheMissError, OfflineError, EndpointError):
        return frozenset()
    return frozenset(local_id(row["e"]) for row in rows)


def _triple(relation: str, role: Role) -> str:
    predicate = f"<{DIRECT}{relation}>"
    return f"?s {predicate} ?e ." if role == "object" else f"?e {predicate} ?o ."
