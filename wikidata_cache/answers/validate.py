"""Checks of the rows of a snapshot file, which anybody may have written: fields, ids, shapes of values, times.

The shapes of values are those of `Fact`, by kind. Times must lie between 2012, when Wikidata began, and one day from
now (clocks differ).
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from wikidata_cache.answers.modes import now, utc
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import is_entity, is_item, is_property
from wikidata_cache.sources.queries import parse_relation_end

_EARLIEST = "2012"  # times compare as text
_CLOCKS_DIFFER = timedelta(days=1)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANKS = ("preferred", "normal")
FACT_FIELDS = ("fetched_at", "graph", "id", "kind", "url", "value")
LOG_FIELDS: Mapping[str, type] = {
    "graph": str,
    "template": str,
    "url": str,
    "query": str,
    "fetched_at": str,
    "elapsed_ms": int,
    "rows": int,
    "sha256": str,
    "headers": dict,
    "library": str,
}


def fact_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a fact's row (a JSON object with `FACT_FIELDS`), in words; None for a valid one."""
    if set(row) != {"type", *FACT_FIELDS}:
        return f"found the fields {sorted(row)}; expected {', '.join(('type', *FACT_FIELDS))}"
    if not all(isinstance(row[name], str) for name in FACT_FIELDS if name != "value"):
        return "a field is no text"
    check = _CHECKS.get(row["kind"])
    if check is None:
        return f"unknown kind {row['kind']!r}; expected one of {', '.join(_CHECKS)}"
    is_id, is_value = check
    if not is_id(row["id"]):
        return f"{row['id']!r} is no id for the kind {row['kind']}"
    if not is_value(row["value"]):
        return f"the value of {row['id']} has not the shape of the kind {row['kind']}"
    return _origin_problem(row)


def log_entry_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with an entry of the query log (`LOG_FIELDS` by type), in words; None for a valid one."""
    if set(row) != {"type", *LOG_FIELDS}:
        return f"found the fields {sorted(row)}; expected type, {', '.join(LOG_FIELDS)}"
    for name, expected in LOG_FIELDS.items():
        if not isinstance(row[name], expected) or isinstance(row[name], bool):
            return f"the field {name} is no {expected.__name__}"
    if not all(isinstance(value, str) for value in row["headers"].values()):
        return "a header is no text"
    return _origin_problem(row)


def _origin_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the graph's name or the time of an answer."""
    if not row["graph"].strip():
        return "the graph has no name"
    time = row["fetched_at"]
    try:
        written = utc(time)
    except BadOptionError as error:
        return str(error).rstrip(".")
    if written != time:
        return f"the time {time!r} is not written as {written!r}"
    latest = utc((datetime.now(UTC) + _CLOCKS_DIFFER).isoformat())
    if not _EARLIEST <= time <= latest:
        return f"the time {time} cannot be: Wikidata began in 2012, and now it is {now()}"
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
    """Whether a text is an end of a relation, with or without an item there."""
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
    "query": (lambda key: _SHA256.fullmatch(key) is not None, _is_rows),
}
