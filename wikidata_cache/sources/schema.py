"""Check facts: the form of the id and the shape of the value for each kind of `Fact`.

The same schema is used for answers of endpoints, for facts in a cache, and for rows of a snapshot.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import is_entity, is_item, is_property
from wikidata_cache.sources.queries import parse_relation_end
from wikidata_cache.values import is_value

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANKS = ("preferred", "normal")


def value_problem(kind: str, entity: str, value: Any) -> str | None:
    """Return what is wrong with a fact (`Fact`, or the rows of a user's query), in words; None for a valid fact."""
    check = _CHECKS.get(kind)
    if check is None:
        return f"unknown kind {kind!r}; expected one of {', '.join(_CHECKS)}"
    is_id, is_value = check
    if not is_id(entity):
        return f"{entity!r} is not an id of the kind {kind}"
    if not is_value(value):
        return f"the value of {entity} does not have the shape of the kind {kind}"
    return None


def _pairs(first: Callable[[str], bool], second: Callable[[str], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and all(_texts(pair) and len(pair) == 2 and first(pair[0]) and second(pair[1]) for pair in value)
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _list_of(fits: Callable[[str], bool]) -> Callable[[Any], bool]:
    return lambda value: _texts(value) and all(fits(text) for text in value)


def _is_claims(value: Any) -> bool:
    return isinstance(value, list) and all(
        _texts(claim) and len(claim) == 5 and is_property(claim[0]) and is_item(claim[1]) and claim[2] in _RANKS
        for claim in value
    )


def _is_label(value: Any) -> bool:
    return value is None or (_texts(value) and len(value) == 2)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_relation_end(text: str, *, item: bool) -> bool:
    """Return whether a text is an end of a relation such as "P19 object", or with `item` "P19 object Q65"."""
    try:
        parse_relation_end(text, item=item)
    except BadOptionError:
        return False
    return True


def _is_sample(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_count(value[0])
        and isinstance(value[1], list)
        and all(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _is_count(pair[1])
            for pair in value[1]
        )
    )


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and all(isinstance(text, str) for text in row.values()) for row in value
    )


_CHECKS: Mapping[str, tuple[Callable[[str], bool], Callable[[Any], bool]]] = {
    "out": (is_entity, _pairs(is_property, is_item)),
    "in": (is_entity, lambda value: value is None or _pairs(is_item, is_property)(value)),
    "degree": (is_entity, _is_count),
    "claims": (is_entity, _is_claims),
    "types": (is_entity, _list_of(is_item)),
    "label": (is_entity, _is_label),
    "description": (is_entity, lambda value: value is None or isinstance(value, str)),
    "named": (lambda label: True, _list_of(is_entity)),
    "mentioned": (is_entity, lambda value: isinstance(value, bool)),
    "redirect": (is_entity, lambda value: value is None or (isinstance(value, str) and is_item(value))),
    "ends": (lambda end: _is_relation_end(end, item=False), _is_sample),
    "at_end": (lambda place: _is_relation_end(place, item=True), lambda value: isinstance(value, bool)),
    "sitelinks": (is_entity, lambda value: value is None or _is_count(value)),
    "values": (is_entity, _pairs(is_property, is_value)),
    "query": (lambda key: _SHA256.fullmatch(key) is not None, _is_rows),
}
