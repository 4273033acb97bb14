"""Write files that are never seen half-written: text, JSON and tensors are replaced, JSON lines are appended.

- `write_text`, `write_json`, `write_safetensors`, `write_arrays`, `copy_file`: the file is written in its folder under
  another name, and renamed (`os.replace`) when it is complete; `replacing` does that for any file.
- `let_others_read`: give a folder's files the modes that a shell would give them.
- `mark_used`: note that a cached file was used now; nothing is written into it.
- `append_lines`, `read_lines`, `drop_cut_line`: a file of JSON lines that only grows. A line is complete or absent,
  also after a kill or on a full disk.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from kg_common import atomic
from kg_edit.errors import OutputError

if TYPE_CHECKING:  # writing text imports neither numpy nor torch
    from numpy.typing import NDArray
    from torch import Tensor

Line = TypeVar("Line", bound=BaseModel)


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically; return ``path``."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: object) -> Path:
    """Write ``value`` as JSON, indented and with sorted keys, atomically; return ``path``."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors with metadata, atomically; return ``path``."""
    from safetensors.torch import save_file

    return _save(path, save_file, tensors, metadata)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> Path:
    """Write the same file as `write_safetensors`, without torch."""
    from safetensors.numpy import save_file

    return _save(path, save_file, arrays, metadata)


def _save(path: Path, save_file: Callable[..., None], tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Path:
    from safetensors import SafetensorError

    with replacing(path) as scratch:
        try:
            save_file(dict(tensors), scratch, metadata=dict(metadata))
        except SafetensorError as error:  # raised on a full disk, instead of an OSError
            raise OutputError(f"can't write {path}: {error}; free disk space, or choose another folder") from error
    return path


def copy_file(source: Path, path: Path) -> Path:
    """Copy the content of a file, atomically; return ``path``."""
    with replacing(path) as scratch:
        shutil.copyfile(source, scratch)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch file in ``path``'s folder. It replaces ``path`` at the end, or is deleted on an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as scratch:
            yield scratch
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror or error}; choose another folder") from error


def let_others_read(folder: Path) -> None:
    """Set the mode of a folder and all in it to what the umask leaves; 0755 and 0644 for most users.

    `mkdtemp` and safetensors make files that only the owner can read.
    """
    probe = folder / ".mode"
    probe.mkdir()
    mode = probe.stat().st_mode & 0o777  # without the bits that a folder inherits
    probe.rmdir()
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(mode)
        else:
            path.chmod(mode & 0o666)


def append_lines(file: Path, lines: Iterable[str]) -> None:
    """Append lines to a file; when this returns, they are on disk. If it raises, they are removed again.

    If even that fails, a line may be incomplete: `drop_cut_line` removes it before the next write.
    """
    data = "".join(line + "\n" for line in lines).encode()
    try:
        with file.open("ab", buffering=0) as handle:
            _write_all_or_nothing(handle, data)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way = "free disk space" if is_full else "check the path and its permissions"
        raise OutputError(
            f"can't write {file}: {error.strerror}; {way}, and start again: the lines so far are kept"
        ) from error


def _write_all_or_nothing(handle: FileIO, data: bytes) -> None:
    """Write data at the end of an unbuffered file, and wait until the disk has it; on an error, undo what was written.

    If that fails too, `drop_cut_line` removes the incomplete line later.
    """
    end = handle.tell()
    try:
        written = handle.write(data)
        if written < len(data):
            handle.write(data[written:])  # a full disk accepts a part of the data, and then raises
        os.fsync(handle.fileno())
    except OSError:
        with suppress(OSError):
            handle.truncate(end)
        raise


def drop_cut_line(file: Path) -> None:
    """Remove the file's last line if it has no line break at its end, because a kill interrupted its writing."""
    data = file.read_bytes() if file.exists() else b""
    length = data.rfind(b"\n") + 1
    if length < len(data):
        os.truncate(file, length)


def read_lines(path: Path, kind: type[Line]) -> Iterator[Line]:
    """Yield the complete lines of a file as models of class ``kind``; no lines if there is no file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        lines = (line for line in file if line.endswith("\n"))
        for number, line in enumerate(lines, 1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                message = f"{path}, line {number}: not a valid record; delete the line, and start again"
                raise OutputError(message) from error


def mark_used(path: Path) -> None:
    """Set the time of a cached file's last use to now, as far as the cache can be written."""
    with suppress(OSError):
        os.utime(path)
