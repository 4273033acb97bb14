"""JSON values as they lie in the cache file: text, or zlib where that saves something."""

import json
import zlib
from typing import Any

_WORTH_PACKING = 300  # characters; zlib saves nothing on shorter texts


def dumps(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, readable letters (escapes where UTF-8 has none)."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text


def pack(value: Any) -> str | bytes:
    """A value as SQLite shall keep it."""
    text = dumps(value)
    if len(text) < _WORTH_PACKING:
        return text
    packed = zlib.compress(text.encode(), 6)
    return packed if len(packed) < 0.8 * len(text) else text


def unpack(stored: str | bytes) -> Any:
    """The value that `pack` was given."""
    return json.loads(zlib.decompress(stored) if isinstance(stored, bytes) else stored)
