"""What a relation joins in a graph: the types of its values and of its subjects, from a sample."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from wikidata_cache.errors import BadOptionError, CacheMissError, EndpointError, OfflineError
from wikidata_cache.ids import is_item, is_property
from wikidata_cache.sources.relation_ends import Role, end_key
from wikidata_cache.subgraphs.facts import Facts

_NOT_NOW = (CacheMissError, OfflineError, EndpointError)  # linking goes on without


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


def sample_ends(facts: Facts, relation: str, role: Role) -> Ends | None:
    """The types at one end of a relation, or None where the graph has none of it or cannot be asked now.

    Raises BadOptionError for what is no property id.
    """
    check_relation(relation)
    end = end_key(relation, role)
    try:
        sampled, counts = facts.ends([end])[end]
    except _NOT_NOW:
        return None
    return Ends(relation, role, sampled, {kind: n / sampled for kind, n in counts}) if sampled else None


def stated_there(facts: Facts, relation: str, role: Role, ids: Collection[str]) -> frozenset[str]:
    """Those of the ids that stand at this end of the relation somewhere in the graph."""
    places = {f"{end_key(relation, role)} {entity}": entity for entity in ids if is_item(entity)}
    try:
        found = facts.at_ends(places)
    except _NOT_NOW:
        return frozenset()
    return frozenset(entity for place, entity in places.items() if found[place])


def ask_ahead(facts: Facts, candidates: Mapping[tuple[str, Role], Collection[str]]) -> None:
    """Ask about all of these ends of relations, and about the candidates for them, in as few requests as possible."""
    ends = {end_key(*end): ids for end, ids in candidates.items()}
    with suppress(*_NOT_NOW):
        sampled = facts.ends(ends)
        shown = {end: ids for end, ids in ends.items() if sampled[end][0]}
        facts.at_ends(f"{end} {entity}" for end, ids in shown.items() for entity in ids if is_item(entity))
