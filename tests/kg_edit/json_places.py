"""Every place in a JSON value, and the value with another one there."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The path of each value inside a JSON value."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in inside:
        yield from places(inner, (*at, name))


def replaced(value: Any, at: Place, new: Any) -> Any:
    """A copy with another value at a place."""
    if not at:
        return new
    changed = deepcopy(value)
    holder = changed
    for name in at[:-1]:
        holder = holder[name]
    holder[at[-1]] = new
    return changed
