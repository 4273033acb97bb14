"""JSON: parse it from untrusted sources with a limit on the number of values, and hash a value.

In memory, nested lists take about a hundred times as many bytes as in the text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

MOST_VALUES = 3_000_000  # values in one text; each takes up to 250 bytes in memory


def parse(
    text: bytes | str,
    *,
    most: int = MOST_VALUES,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the value of a JSON text with at most `most` values; `pairs` is the object_pairs_hook of `json.loads`."""
    # Each of these characters begins at most one value more.
    if isinstance(text, bytes):
        count = text.count(b",") + text.count(b"[") + text.count(b"{")
    else:
        count = text.count(",") + text.count("[") + text.count("{")
    if count > most:
        raise ValueError(f"found up to {count:,} values; at most {most:,} are read")
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in hex; the order of an object's fields does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
