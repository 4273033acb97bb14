"""Check facts: the form of the id and the shape of the value for each kind of `Fact`.

The same schema is used for answers of endpoints, for facts in a cache, and for rows of a snapshot.

A check is a function from a value to whether it has a shape. `_text_that`, `_list_of`, `_row_of` and `_none_or` make
checks from smaller ones, so that `_SHAPES` reads like the docstring of `Fact`: the value of "out" is a list of rows of
a property and an item.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from kg_common.ids import is_entity, is_item, is_property
from wikidata_cache.sources.queries import ITEM_AT_END, NAMED_IN, RELATION_END, WORDS_OF
from wikidata_cache.values import is_value

Check = Callable[[Any], bool]


def value_problem(kind: str, fact_id: str, value: Any) -> str | None:
    """Return what is wrong with a fact (`Fact`, or the rows of a user's query), in words; None for a valid fact.

    ``fact_id`` is what the fact is about, as the kind writes it: "Q42", a label, or "P19 object" (`_ID_FORMS`).
    """
    if kind not in _SHAPES:
        return f"unknown kind {kind!r}; expected one of {', '.join(_SHAPES)}"
    if kind in _ID_FORMS:
        is_id = _ID_FORMS[kind].fullmatch(fact_id) is not None
    else:
        is_id = is_entity(fact_id)
    if not is_id:
        return f"{fact_id!r} is not an id of the kind {kind}"
    if not _SHAPES[kind](value):
        return f"the value of {fact_id} does not have the shape of the kind {kind}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # type, since True is an int too


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_rank(value: Any) -> bool:
    return value in ("preferred", "normal")


def _is_binding(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _text_that(fits: Callable[[str], bool]) -> Check:
    """Return the check of a text for which a function is true."""

    def check(value: Any) -> bool:
        return isinstance(value, str) and fits(value)

    return check


def _list_of(check_entry: Check) -> Check:
    """Return the check of a list whose entries all have one shape."""

    def check(value: Any) -> bool:
        return isinstance(value, list) and all(map(check_entry, value))

    return check


def _row_of(*checks: Check) -> Check:
    """Return the check of a list with one entry of each of these shapes, in order."""

    def check(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != len(checks):
            return False
        return all(check_cell(cell) for check_cell, cell in zip(checks, value, strict=True))

    return check


def _none_or(check_value: Check) -> Check:
    """Return the check of None or a value of a shape."""

    def check(value: Any) -> bool:
        return value is None or check_value(value)

    return check


_is_item = _text_that(is_item)
_is_property = _text_that(is_property)
_SHAPES: Mapping[str, Check] = {
    "out": _list_of(_row_of(_is_property, _is_item)),
    "in": _none_or(_list_of(_row_of(_is_item, _is_property))),
    "degree": _is_count,
    "claims": _list_of(_row_of(_is_property, _is_item, _is_rank, _is_text, _is_text)),
    "types": _list_of(_is_item),
    "label": _none_or(_row_of(_is_text, _is_text)),
    "description": _none_or(_is_text),
    "named": _list_of(_text_that(is_entity)),
    "mentioned": _is_bool,
    "redirect": _none_or(_is_item),
    "ends": _row_of(_is_count, _list_of(_row_of(_is_text, _is_count))),
    "at_end": _is_bool,
    "sitelinks": _none_or(_is_count),
    "values": _list_of(_row_of(_is_property, _text_that(is_value))),
    "label_in": _list_of(_row_of(_is_text, _is_text)),
    "description_in": _list_of(_row_of(_is_text, _is_text)),
    "named_in": _list_of(_text_that(is_entity)),
    "query": _list_of(_is_binding),
}
# The form of the ids of a kind, where they are not those of entities.
_ID_FORMS: Mapping[str, re.Pattern[str]] = {
    "named": re.compile(".*", re.DOTALL),  # any label
    "ends": RELATION_END,
    "at_end": ITEM_AT_END,
    "label_in": WORDS_OF,
    "description_in": WORDS_OF,
    "named_in": NAMED_IN,
    "query": re.compile(r"[0-9a-f]{64}"),  # a sha256
}
