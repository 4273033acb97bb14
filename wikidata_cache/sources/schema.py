"""Check facts: the form of the id and the shape of the value for each kind of `Fact`.

The same schema is used for answers of endpoints, for facts in a cache, and for rows of a snapshot.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from kg_common.ids import is_entity, is_item, is_property
from wikidata_cache.sources.queries import ITEM_AT_END, NAMED_IN, RELATION_END, WORDS_OF
from wikidata_cache.values import is_value

Check = Callable[[Any], bool]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def value_problem(kind: str, entity: str, value: Any) -> str | None:
    """Return what is wrong with a fact (`Fact`, or the rows of a user's query), in words; None for a valid fact."""
    if kind not in _SHAPES:
        return f"unknown kind {kind!r}; expected one of {', '.join(_SHAPES)}"
    if not _IDS.get(kind, is_entity)(entity):
        return f"{entity!r} is not an id of the kind {kind}"
    if not _SHAPES[kind](value):
        return f"the value of {entity} does not have the shape of the kind {kind}"
    return None


def _text(fits: Callable[[str], bool] = lambda text: True) -> Check:
    return lambda value: isinstance(value, str) and fits(value)


def _list(fits: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _row(*cells: Check) -> Check:
    def fits(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != len(cells):
            return False
        return all(check(cell) for check, cell in zip(cells, value, strict=True))

    return fits


def _or_none(fits: Check) -> Check:
    return lambda value: value is None or fits(value)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _bool(value: Any) -> bool:
    return isinstance(value, bool)


def _binding(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_ITEM = _text(is_item)
_PROPERTY = _text(is_property)
_RANK = _text(("preferred", "normal").__contains__)
_SHAPES: Mapping[str, Check] = {
    "out": _list(_row(_PROPERTY, _ITEM)),
    "in": _or_none(_list(_row(_ITEM, _PROPERTY))),
    "degree": _count,
    "claims": _list(_row(_PROPERTY, _ITEM, _RANK, _text(), _text())),
    "types": _list(_ITEM),
    "label": _or_none(_row(_text(), _text())),
    "description": _or_none(_text()),
    "named": _list(_text(is_entity)),
    "mentioned": _bool,
    "redirect": _or_none(_ITEM),
    "ends": _row(_count, _list(_row(_text(), _count))),
    "at_end": _bool,
    "sitelinks": _or_none(_count),
    "values": _list(_row(_PROPERTY, _text(is_value))),
    "label_in": _list(_row(_text(), _text())),
    "description_in": _list(_row(_text(), _text())),
    "named_in": _list(_text(is_entity)),
    "query": _list(_binding),
}
_IDS: Mapping[str, Callable[[str], bool]] = {  # of the kinds whose ids are not those of entities
    "named": lambda label: True,
    "ends": lambda end: RELATION_END.fullmatch(end) is not None,
    "at_end": lambda key: ITEM_AT_END.fullmatch(key) is not None,
    "label_in": lambda key: WORDS_OF.fullmatch(key) is not None,
    "description_in": lambda key: WORDS_OF.fullmatch(key) is not None,
    "named_in": lambda key: NAMED_IN.fullmatch(key) is not None,
    "query": lambda key: _SHA256.fullmatch(key) is not None,
}
