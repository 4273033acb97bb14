"""Parse and check the JSON of Wikidata's Action API.

The format: https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html and
https://www.wikidata.org/w/api.php?action=help&modules=wbsearchentities. All functions raise ValueError, KeyError,
TypeError or AttributeError for JSON of another shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wikidata_cache.ids import LANGUAGES, is_entity, is_item, is_property
from wikidata_cache.labels.label_index import NameKind

Json = Any
Name = tuple[str, str, NameKind]  # text, language, kind

MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
_RANKS = ("preferred", "normal", "deprecated")
_TRUTHY = ("preferred", "normal")  # the first of these that a property has is truthy; deprecated never is


@dataclass(frozen=True)
class ApiEntity:
    """An entity as the API describes it. `statements` are pairs (property, item) of best rank.

    If the requested entity was merged into another one, `id` is the id of that other entity.
    """

    id: str
    names: tuple[Name, ...]
    label: str | None
    description: str | None
    statements: frozenset[tuple[str, str]]


def parse_entities(found: Json, asked: Collection[str]) -> dict[str, ApiEntity]:
    """Return the existing entities in an answer of wbgetentities, by the id that was requested."""
    if others := found.keys() - set(asked):
        raise ValueError(f"found entities that were not requested: {', '.join(map(str, sorted(others)))[:80]}")
    return {entity: _parse_entity(said) for entity, said in found.items() if "missing" not in said}


def parse_search(found: Json) -> list[str]:
    """Return the ids in an answer of wbsearchentities."""
    return [_checked_id(hit["id"]) for hit in found]


def parse_pages(found: Json) -> list[str]:
    """Return the ids in the page titles of a full-text search, such as "Q42" or "Property:P31"."""
    return [_checked_id(page["title"].rpartition(":")[2]) for page in found["search"]]


def _parse_entity(said: Json) -> ApiEntity:
    labels, descriptions = _texts(said.get("labels")), _texts(said.get("descriptions"))
    aliases = {language: [_text(one) for one in found] for language, found in (said.get("aliases") or {}).items()}
    statements = frozenset(_truthy(said.get("claims") or {}))
    names = tuple(_names(labels, aliases))
    return ApiEntity(_checked_id(said["id"]), names, _first(labels), _first(descriptions), statements)


def _names(labels: Mapping[str, str], aliases: Mapping[str, list[str]]) -> Iterator[Name]:
    for language in LANGUAGES:
        if label := labels.get(language):
            yield label, language, "label"
        for alias in aliases.get(language, ()):
            yield alias, language, "alias"


def _texts(found: Json) -> dict[str, str]:
    """Return {language: text}; the API writes an empty object as []."""
    return {str(language): _text(one) for language, one in found.items()} if found else {}


def _text(one: Json) -> str:
    """Return the text of a label, description or alias, with lone surrogates replaced."""
    text = one["value"]
    if not isinstance(text, str):
        raise TypeError(f"expected a text, found {text!r:.80}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _truthy(claims: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """Yield (property, item) of the item-valued statements of best rank."""
    for relation, statements in claims.items():
        if not is_property(relation):
            raise ValueError(f"found statements of {relation!r:.80}, which is not a property")
        ranks = [_checked_rank(statement["rank"]) for statement in statements]
        best = next((rank for rank in _TRUTHY if rank in ranks), None)
        for statement, rank in zip(statements, ranks, strict=True):
            item = _item(statement["mainsnak"])
            if rank == best and item is not None:
                yield relation, item


def _item(snak: Json) -> str | None:
    """Return the item that is the value of a statement; None for another type of value, and for no value."""
    value = snak.get("datavalue", {}).get("value")
    item = value.get("id", "") if isinstance(value, Mapping) else ""
    return item if is_item(item) else None


def _checked_id(entity: Json) -> str:
    if not is_entity(entity):
        raise ValueError(f"expected an id, found {entity!r:.80}")
    return str(entity)


def _checked_rank(rank: Json) -> str:
    if rank not in _RANKS:
        raise ValueError(f"expected a rank, found {rank!r:.80}")
    return str(rank)


def _first(texts: Mapping[str, str]) -> str | None:
    """Return the text in the first of LANGUAGES that has a text, or None."""
    return next((texts[language] for language in LANGUAGES if language in texts), None)
