"""JSON from elsewhere, read within limits: a few bytes of nested lists take a hundred times as many in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST_VALUES = 3_000_000  # of a text; each takes up to 250 bytes in memory


def parse(
    text: bytes | str,
    *,
    most: int = MOST_VALUES,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value of a JSON text with at most `most` values; `pairs` makes what an object becomes.

    Raises ValueError (JSONDecodeError where it is no JSON) for other texts, also for those nested too deeply.
    """
    found = sum(map(text.count, (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")))  # type: ignore[arg-type]
    if found > most:
        raise ValueError(f"found up to {found:,} values; at most {most:,} are read")
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error
