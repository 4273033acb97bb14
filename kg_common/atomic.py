"""Replace files atomically: even after a crash, a reader sees either the old file or the complete new file.

`check_out` refuses, before the work, a file that cannot be written. `user_path` reads a path as a user writes it.
"""

import gzip
import io
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kg_common.errors import BadOptionError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch file that replaces `path` at the end of the block, or is deleted on an error.

    Where `path` is a symbolic link, the file that it points to is replaced. An error of the scratch file, which nobody
    knows, is raised with the name of `path`.
    """
    target = path.resolve()
    # The scratch file is in the target's folder, because a file can replace another one only on its own file system.
    # Its name begins with at most 50 characters of the target's, because names have a largest length.
    scratch = target.with_name(f".{path.name[:50]}-{secrets.token_hex(4)}")
    try:
        with scratch.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # what the umask leaves
        try:
            yield scratch
            scratch.chmod(mode)  # safetensors puts another file in its place, which only the owner can read
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        if not _may_be_of(scratch, error):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _may_be_of(scratch: Path, error: OSError) -> bool:
    """Return whether an error may be about the scratch file, and not about a file that the caller's block reads.

    Opening or renaming the scratch file raises an error with its name. Writing to it, for example on a full disk,
    raises one with a number alone. An error without a number is not of the system, but of a library.
    """
    if error.errno is None:
        return False
    return error.filename is None or str(error.filename).startswith(str(scratch))


def user_path(path: str | Path) -> Path:
    """Return a path with the home folder in the place of `~` or `~name`; it stays as it is if no user has that name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises for such a name


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write a file with `replacing`, and return `path`. Text is encoded as UTF-8; lone surrogates become "?"."""
    path = Path(path)
    if isinstance(content, str):
        content = content.encode("utf-8", errors="replace")
    with replacing(path) as scratch:
        scratch.write_bytes(content)
    return path


def gzipped(content: bytes) -> bytes:
    """Return the content as gzip without a file name and a time in its header: equal content gives equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def check_out(path: Path, *endings: str, option: str = "", inputs: Iterable[Path] = ()) -> None:
    """Raise BadOptionError for a file that surely cannot be written; call this before the real work.

    Args:
        path: the file to write.
        endings: its name has to end in one of these.
        option: the option that names the file, for the message.
        inputs: files that are read, and must not be overwritten.
    """
    name = f"{option} {path}".strip()
    if not path.name.lower().endswith(endings):
        raise BadOptionError(f"{name}: expected a name ending in {' or '.join(endings)}.")
    if not path.parent.is_dir():
        raise BadOptionError(
            f"{name} cannot be written: there is no folder {path.parent}. Make it (mkdir -p), or give another name."
        )
    if path.is_dir():
        raise BadOptionError(f"{name} is a folder; give the name of a file.")
    if path.exists() and any(file.exists() and path.samefile(file) for file in inputs):
        raise BadOptionError(f"{name} is the input file itself; give another name.")
