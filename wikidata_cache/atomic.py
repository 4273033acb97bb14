"""Replace files atomically: even after a crash, a reader sees either the old file or the complete new file."""

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch file that replaces `path` at the end of the block, or is deleted on an error.

    Where `path` is a symbolic link, the file that it points to is replaced. Raises OSError, which names `path`; an
    existing file at `path` is then unchanged.
    """
    target = path.resolve()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}-", dir=target.parent)  # the same file system
        os.close(handle)
        scratch = Path(name)
        try:
            yield scratch
            scratch.chmod(0o644)  # mkstemp makes files for the owner only
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write a file with `replacing`, and return `path`. Text is encoded as UTF-8; lone surrogates become "?"."""
    path = Path(path)
    with replacing(path) as scratch:
        scratch.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", errors="replace"))
    return path


def gzipped(content: bytes) -> bytes:
    """Return the content as gzip without a file name and a time in its header: equal content gives equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()
