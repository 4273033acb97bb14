"""Writing files so that a reader sees the old one or the new one, never half of one."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write a whole file (text as UTF-8, what UTF-8 cannot hold as "?"), and return its path.

    An OSError names the file that was asked for; what stood there before is then untouched.
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
