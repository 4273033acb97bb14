"""Replace files atomically: even after a crash, a reader sees either the old file or the complete new file."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to a temporary file in the same folder, rename it to `path`, and return `path`.

    Where `path` is a symbolic link, the file that it points to is replaced. Text is encoded as UTF-8; lone surrogates
    become "?". Raises OSError, which names `path`; an existing file at `path` is then unchanged.
    """
    path = Path(path)
    target = path.resolve()
    body = content if isinstance(content, bytes) else content.encode("utf-8", errors="replace")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
            Path(name).chmod(0o644)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    return path
