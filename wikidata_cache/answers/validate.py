"""Check every row that enters a cache, from an endpoint or a snapshot file: fields, ids, shapes of values, times.

`schema.py` defines the shapes of values. Times must lie between 2012, when Wikidata began, and one day from now, since
clocks differ. Answers of endpoints pass the same checks as imported rows, so that `import` accepts every `export`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from wikidata_cache.answers.modes import utc
from wikidata_cache.endpoints.endpoint import now
from wikidata_cache.errors import BadOptionError
from wikidata_cache.sources.schema import value_problem

_EARLIEST = "2012"  # times are compared as text
_CLOCKS_DIFFER = timedelta(days=1)
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


def row_problem(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a row of the type "fact" or "query", in words; None for a valid row."""
    if row["type"] == "fact":
        return fact_problem(row)
    return log_entry_problem(row)


def fact_problem(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a fact's row (a JSON object with `FACT_FIELDS`), in words; None for a valid row."""
    if set(row) != {"type", *FACT_FIELDS}:
        return f"found the fields {sorted(row)}; expected {', '.join(('type', *FACT_FIELDS))}"
    for name in FACT_FIELDS:
        if name != "value" and not isinstance(row[name], str):
            return f"the field {name} is not a text"
    return value_problem(row["kind"], row["id"], row["value"]) or _graph_or_time_problem(row)


def log_entry_problem(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an entry of the query log (`LOG_FIELDS`), in words; None for a valid entry."""
    if set(row) != {"type", *LOG_FIELDS}:
        return f"found the fields {sorted(row)}; expected type, {', '.join(LOG_FIELDS)}"
    for name, expected in LOG_FIELDS.items():
        if not isinstance(row[name], expected) or isinstance(row[name], bool):
            return f"the field {name} is of the type {type(row[name]).__name__}; expected {expected.__name__}"
    if not all(isinstance(value, str) for value in row["headers"].values()):
        return "a header is not a text"
    return _graph_or_time_problem(row)


def _graph_or_time_problem(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the graph's name or the time of an answer, in words; None if both are valid."""
    if not row["graph"].strip():
        return "the graph has no name"
    time = row["fetched_at"]
    try:
        written = utc(time)
    except BadOptionError as error:
        return str(error).rstrip(".")
    if written != time:
        return f"the time {time!r} must be written as {written!r}"
    if not _EARLIEST <= time <= latest_time():
        return f"the time {time} is impossible: Wikidata began in 2012, and the time now is {now()}"
    return None


def latest_time() -> str:
    """Return the latest time that an answer may have: one day from now, in the form of `utc`."""
    return utc((datetime.now(UTC) + _CLOCKS_DIFFER).isoformat())
