"""From an answer to what the cache keeps of it."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from wikidata_cache.answers.layers import Layers
from wikidata_cache.answers.modes import now
from wikidata_cache.answers.values import dumps
from wikidata_cache.sources.facts import Exchange, Fact, Json, Row
from wikidata_cache.sources.source import Source

_NOTHING = object()

Known = dict[tuple[str, str], Json]  # (kind, id) -> value


def known_of(facts: Iterable[Fact], layers: Layers) -> Known:
    """What the cache already holds of the ids that some facts are about."""
    ids: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        ids[fact.kind].append(fact.id)
    found = {kind: layers.look_up(kind, entities) for kind, entities in ids.items()}
    return {(kind, entity): value for kind, values in found.items() for entity, value in values.items()}


def settled(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """The facts, with the cache's own value where it has one: one run and the next must read the same."""
    return [Fact(kind, entity, known.get((kind, entity), value)) for kind, entity, value in facts]


def unknown(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """The facts that the cache lacks."""
    return [fact for fact in facts if (fact.kind, fact.id) not in known]


def renewed(facts: Iterable[Fact], known: Known, *, kind: str, asked: Collection[str]) -> list[Fact]:
    """The facts that were asked for, and those met on the way that have changed."""
    return [
        fact
        for fact in facts
        if (fact.kind == kind and fact.id in asked) or known.get((fact.kind, fact.id), _NOTHING) != fact.value
    ]


def timed_select(source: Source, query: str) -> tuple[Sequence[Row], Exchange]:
    """The rows of a user's query, and an account of the exchange. Raises what the source raises."""
    fetched_at, start = now(), time.monotonic()
    rows = [dict(row) for row in source.select(query)]
    elapsed = round(1000 * (time.monotonic() - start))
    return rows, plain_exchange(source, query, rows, fetched_at=fetched_at, elapsed_ms=elapsed)


def plain_exchange(
    source: Source, query: str, found: Sequence[Json], *, fetched_at: str | None = None, elapsed_ms: int = 0
) -> Exchange:
    """The account of an answer whose source gives none."""
    digest = hashlib.sha256(dumps(found).encode()).hexdigest()
    return Exchange(source.name, query, fetched_at or now(), elapsed_ms, len(found), digest, {})
