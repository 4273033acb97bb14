"""What kg-edit stores between runs in its cache folder, by kind, and how it is deleted.

Only files are listed that kg-edit itself writes: each is known by its folder and the form of its name; links and other
files are never touched. What a running process may need is left: files that were used in the last ten minutes. A model
is deleted under another name, so no process finds half of it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kg_edit.errors import OutputError

KINDS = {
    "models": "GGUF files as float32 weights",
    "covariances": "covariances of keys, also unfinished ones",
    "scores": "scores of unedited models",
    "knowledge": "facts that models were asked for",
    "layers": "layers that --layer auto chose",
    "leftovers": "what killed processes left",
}
IN_USE = 600.0  # seconds since the last use
_HEX = "[0-9a-f]"
# The kind, and the form of a file's path in the cache folder; the group `item` is the path of the file's item. That of
# a covariance names no file: two files belong to it, HEX.safetensors and HEX.json.
# Examples, with HEX for the digits of a hash:
#     models/gpt2-HEX/model.safetensors
#     covariance/HEX.safetensors, covariance/HEX.partial.json, covariance/HEX.shard-0-of-2.json
#     unedited/3f/HEX.json
#     knowledge/HEX.jsonl
#     layers/HEX.json
#     models/.dequantise-x1/model.safetensors; a path that ends in "/" is an empty folder
#     layers/.HEX.json-ab12cd_e
_FORMS = (
    ("models", rf"(?P<item>models/[^/]+-{_HEX}{{16}})/[^/]+\.(?:json|safetensors|jinja|txt|model)"),
    ("covariances", rf"(?P<item>covariance/{_HEX}{{16}}(?:\.partial|\.shard-\d+-of-\d+)?)\.(?:safetensors|json)"),
    ("scores", rf"(?P<item>unedited/{_HEX}{{2}}/{_HEX}{{64}}\.json)"),
    ("knowledge", rf"(?P<item>knowledge/{_HEX}{{16}}\.jsonl)"),
    ("layers", rf"(?P<item>layers/{_HEX}{{16}}\.json)"),
    ("leftovers", r"(?P<item>(?:models|covariance)/\.(?:dequantise|incoming|cleared)-[^/]+)/.*"),  # a folder
    ("leftovers", r"(?P<item>(?:covariance|unedited/..|layers)/\.[^/]+-[a-z0-9_]{8})"),  # a file
)


@dataclass(frozen=True)
class CachedItem:
    """Files that belong together, such as those of one model.

    Attributes:
        kind: one of `KINDS`.
        path: their common folder, the one file, or of a covariance the two files' path without their suffixes.
        files: the files.
        size: their bytes.
        used: when they were last used, in seconds since 1970.
        foreign: files in the same folder that kg-edit did not write.
    """

    kind: str
    path: Path
    files: tuple[Path, ...]
    size: int
    used: float
    foreign: tuple[Path, ...] = ()


def cached_items(folder: Path) -> list[CachedItem]:
    """Return what is stored in the cache folder, largest first; [] if there is no such folder."""
    groups: dict[tuple[str, Path], list[Path]] = {}
    others: list[Path] = []
    for path, name in _walk(folder):
        known = _find_item(name)
        if known is None or path.is_symlink():
            others.append(path)
            continue
        kind, item_path = known
        files = groups.setdefault((kind, folder / item_path), [])
        if not name.endswith("/"):
            files.append(path)
    items = []
    for (kind, path), files in groups.items():
        with suppress(FileNotFoundError):  # another process has just deleted it
            items.append(_measure(kind, path, files, others))
    return sorted(items, key=lambda item: (-item.size, str(item.path)))


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file and each empty folder with its path in ``folder``, which ends in "/" for an empty folder."""
    for directory, folders, names in os.walk(folder):  # which does not enter links to folders
        inside = Path(directory)
        if not names and not folders:
            yield inside, f"{inside.relative_to(folder).as_posix()}/"
        for name in names:
            yield inside / name, (inside / name).relative_to(folder).as_posix()


def _find_item(name: str) -> tuple[str, str] | None:
    """Return the kind and the path of the item that a file or an empty folder belongs to; None if it is not of kg-edit.

    ``name`` is its path in the cache folder; that of an empty folder ends in "/".
    """
    for kind, form in _FORMS:
        match = re.fullmatch(form, name)
        if match:
            return kind, match["item"]
    return None


def _measure(kind: str, path: Path, files: Sequence[Path], others: Iterable[Path]) -> CachedItem:
    """Return the item of ``files`` with its size and last use, and those of ``others`` that lie in its folder."""
    stats = [file.stat() for file in files]
    times = [stat.st_mtime for stat in stats]
    if not files or path.is_dir():
        times.append(path.stat().st_mtime)
    foreign = tuple(other for other in others if other.is_relative_to(path))
    size = sum(stat.st_size for stat in stats)
    return CachedItem(kind, path, tuple(files), size, used=max(times), foreign=foreign)


def divide_unused(items: Iterable[CachedItem], *, days: float = 0.0) -> tuple[list[CachedItem], list[CachedItem]]:
    """Divide items not used for ``days`` into those that can be deleted, and those that must remain.

    What remains is what was used in the last ten minutes, and a folder in which there are also files of others. Items
    that were used within ``days`` are in neither list.
    """
    now = time.time()
    deletable = list[CachedItem]()
    remaining = list[CachedItem]()
    for item in items:
        if item.used > now - days * 86_400:
            continue
        is_idle = now - item.used >= IN_USE
        if is_idle and not item.foreign:
            deletable.append(item)
        else:
            remaining.append(item)
    return deletable, remaining


def delete(item: CachedItem) -> None:
    """Delete an item's files, and its folder."""
    try:
        if item.path.is_dir():
            # Renamed first: a process that begins to load now finds the whole model, or makes it again.
            scratch = Path(tempfile.mkdtemp(prefix=".cleared-", dir=item.path.parent))
            shutil.rmtree(item.path.rename(scratch / item.path.name))
            scratch.rmdir()
        else:
            for path in item.files:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"can't delete {item.path}: {error.strerror or error}; check its permissions") from error
