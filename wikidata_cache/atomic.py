"""Replace files atomically: even after a crash, a reader sees either the old file or the complete new file."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def open_atomically(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in the same folder for writing, and rename it to `path` when the block has ended.

    Where `path` is a symbolic link, the file that it points to is replaced. After an error, a file at `path` is
    unchanged. Raises OSError, which names `path`.
    """
    path = Path(path)
    target = path.resolve()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            Path(name).chmod(0o644)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to `path` as `open_atomically` does, and return `path`.

    Text is encoded as UTF-8; lone surrogates become "?". Raises OSError.
    """
    with open_atomically(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode("utf-8", errors="replace"))
    return Path(path)
