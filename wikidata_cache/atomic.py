"""Replacing files atomically: a reader sees the old file or the complete new one, also after a crash."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write a whole file by way of a temporary one beside it, and return its path.

    Text is encoded as UTF-8, lone surrogates as "?". Raises OSError naming `path`; an older file is then unchanged.
    """
    path = Path(path)
    body = content if isinstance(content, bytes) else content.encode("utf-8", errors="replace")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    return path
