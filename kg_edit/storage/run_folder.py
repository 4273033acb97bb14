"""The folder of a run: its ``run.json`` has all settings that decide the results, and only the same settings resume it.

For a setting that names a file, the file's content counts (`kg_edit.storage.setting_fields.input_files`).
Only one process at a time works on a folder (`folder_lock`); two processes would write every line twice.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar
from uuid import uuid4

from filelock import FileLock, Timeout

from kg_edit.errors import AnotherRunError, OutputError
from kg_edit.storage.atomic import write_json

Settings = dict[str, Any]
_RUN = "run.json"
ENVIRONMENTS = "environments.jsonl"
_BEFORE_RESULTS = {_RUN, ENVIRONMENTS}  # what a run writes before its first result
VERSION = 1  # of the format of a run's folder
PATCH = "patch.safetensors"  # the patch in the folder of `kg-edit edit`
LOCK = ".lock"

# The files and folders that runs write, besides hidden ones: what `delete_run` may delete.
_WRITTEN = (
    *(_RUN, "layer.json", "records.jsonl", "summary.json"),
    *("patch*.safetensors", "losses.jsonl", "alone.jsonl", "failed.jsonl", "locality.jsonl", "report.*"),  # edit
    "subgraph-*.svg",
    *("general.jsonl", ENVIRONMENTS, "judge.jsonl", "curve.svg", "patches"),  # evaluate
    *("network.safetensors", "checkpoint.safetensors", "states.safetensors"),  # train
    *("heatmap*.svg", "head.safetensors", "texts.jsonl", "points.jsonl"),  # locate, drift
    *("table.md", "picture.svg"),  # sweep
)
# What ``run.json`` has of the rows that a run edits: their number, their ids, and a hash of all.
_OF_ROWS = ("edits", "edits_sha256", "ids", "records_sha256")
_SIDES = ("in the folder", "now")
_FIRST = ("job", "method")  # settings whose difference is named first, as others follow from them
# characters of a value or a list
_SHORT = 60
_SHORT_LIST = 120
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def claim(
    folder: Path,
    settings: Settings,
    *,
    grown: Settings | None = None,
    rows: Callable[[], str | None] = lambda: None,
) -> None:
    """Write ``run.json`` into an empty folder, or check that it has the same settings.

    A run that was stopped before its first result can be replaced by another.

    Args:
        folder: the folder of the run.
        settings: the settings of the run.
        grown: other settings that are accepted too: those of a smaller run that this one extends; they are replaced.
        rows: as for `check_folder`.
    """
    check_folder(folder, grown or settings, rows=rows)
    if grown or _names(folder) <= _BEFORE_RESULTS:
        if not grown and (folder / ENVIRONMENTS).exists():  # of the run that is replaced
            (folder / ENVIRONMENTS).unlink()
        write_json(folder / _RUN, {"version": VERSION, **settings})


def is_run(folder: Path) -> bool:
    """Return whether a folder has the settings of a run."""
    return os.path.isfile(folder / _RUN)  # noqa: PTH113 - unlike Path's, it never raises


def check_folder(
    folder: Path,
    settings: Settings | None = None,
    *,
    rows: Callable[[], str | None] = lambda: None,
) -> None:
    """Refuse early, without writing anything, what `claim` would refuse; without ``settings``, only what is certain.

    Args:
        folder: the folder of the run.
        settings: the settings of the run.
        rows: how its edits or records differ from those in the folder, in words; ``run.json`` only counts and hashes
            them. Asked if they differ; None: the counts and hashes are named.
    """
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # in a folder that can't be entered, or with a name that is too long
        raise OutputError(f"can't write into {folder}: {error.strerror}; give another --out") from error
    if not nearest.is_dir():
        raise OutputError(f"{nearest} is a file; give --out a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"can't write into {folder}: no permission to create or change it; give another --out")
    names = _names(folder)
    if names and _RUN not in names:
        raise OutputError(f"{folder} is not empty and has no run of kg-edit; give another --out")
    if names - _BEFORE_RESULTS and settings is not None:
        there = read_settings(folder)
        here = json.loads(json.dumps(settings))
        found = difference(there, here, sides=_SIDES)
        other_edits = any(there.get(name) != here.get(name) for name in _OF_ROWS)
        if found and other_edits and there.get("job") == here.get("job"):
            found = rows() or found
        if found:
            way = f"give another --out, or delete {folder} to start over"
            raise AnotherRunError(f"{folder} contains another run ({found})", way)


def replace_run(folder: Path, work: Callable[[], Result], *, overwrite: bool) -> Result:
    """Return ``work()``; with ``overwrite``, another run in its output ``folder`` is deleted first.

    The same run is resumed, as without ``overwrite``.
    """
    try:
        return work()
    except AnotherRunError as error:
        if not overwrite:
            raise AnotherRunError(error.found, "--overwrite replaces it, or give another --out") from None
    delete_run(folder)
    return work()


def delete_run(folder: Path) -> None:
    """Delete a run's folder: it is renamed first, so that it is never there in part."""
    settings = read_settings(folder)
    if not {"job", "method", "command"} & settings.keys():  # another program's run.json
        raise OutputError(f"{folder} has no run of kg-edit; give another --out")
    if foreign := sorted(name for name in _names(folder) if not _is_written(folder / name)):
        raise OutputError(f"{folder} also has files of yours ({foreign[0]}); move them, or give another --out")
    for run in (folder, *filter(is_run, folder.iterdir())):
        with _lock(run, 0.0):
            pass
    target = folder.resolve()
    renamed = target.with_name(f".{target.name}-{uuid4().hex[:8]}")
    try:
        target.rename(renamed)
        if folder.is_symlink():  # which would point to nothing
            target.mkdir()
    except OSError as error:
        raise OutputError(f"can't replace {folder}: {error.strerror}; give another --out") from error
    log.info("the other run in %s is deleted", folder)
    rmtree(renamed, ignore_errors=True)


def _is_written(path: Path) -> bool:
    """Whether a run writes a file or a folder of this name; a sweep's folder also has the runs of its cells."""
    if any(fnmatchcase(path.name, pattern) for pattern in _WRITTEN):
        return True
    return is_run(path) and all(map(_is_written, (path / name for name in _names(path))))


def _names(folder: Path) -> set[str]:
    """The files of a folder, except hidden ones (a killed process's scratch file, a file manager's notes)."""
    try:
        return {file.name for file in folder.iterdir() if not file.name.startswith(".")} if folder.is_dir() else set()
    except OSError as error:
        raise OutputError(f"can't read {folder}: {error.strerror}; give another --out") from error


def read_settings(folder: Path) -> Settings:
    """Read the settings that `claim` wrote."""
    file = folder / _RUN
    try:
        settings: Settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{folder} has no run: can't read {file}; give another folder") from error
    if not isinstance(settings, dict):
        raise OutputError(f"{folder} has no run: {file} is of another program; give another folder")
    version = settings.pop("version", VERSION)
    if version != VERSION:
        raise OutputError(f"{folder} has a run of format {version}, and this kg-edit reads only {VERSION}; update it")
    return settings


def difference(
    there: Settings, here: Settings, *, sides: tuple[str, str] = ("in the first", "in the second")
) -> str | None:
    """Return the first setting that differs, with its value on both sides; None if there is no difference.

    Names that do not decide are ignored: the preset's, and the model's if its fingerprint is the same.

    Args:
        there: settings, as in ``run.json``.
        here: other ones.
        sides: the words after the value of ``there``, and after that of ``here``.
    """
    old = _named_values(there)
    new = _named_values(here)
    for name in dict.fromkeys([*_FIRST, *new, *old]):
        if old.get(name) == new.get(name) or name.rpartition(".")[2] == "preset":
            continue
        fingerprint = f"{name.removesuffix('name')}fingerprint"
        if name.endswith(".name") and old.get(fingerprint, "") == new.get(fingerprint):
            continue
        return _in_words(name, old.get(name), new.get(name), sides)
    return None


def _named_values(settings: Settings, start: str = "") -> dict[str, Any]:
    """The settings by their full names: {"config": {"steps": 3}} has the name config.steps."""
    values = dict[str, Any]()
    for name, value in settings.items():
        if isinstance(value, dict):
            values |= _named_values(value, f"{start}{name}.")
        else:
            values[f"{start}{name}"] = value
    return values


def _in_words(name: str, there: Any, here: Any, sides: tuple[str, str]) -> str:
    """Return a name with its two values; of a hash, only that the content differs."""
    field = re.sub(r"[._]?(sha256|fingerprint|content_hash)", "", name) or name
    if field == name:
        return f"{name}: {_short(there)} {sides[0]}, {_short(here)} {sides[1]}"
    if there is None or here is None:
        return f"{field}: none {sides[0] if there is None else sides[1]}"
    return f"{field}: other content {sides[1]}"


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return text if len(text) <= _SHORT_LIST else f"{len(value)} entries"
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


def other_rows(
    unit: str, there: Mapping[str, Settings], here: Mapping[str, Settings], *, counts: tuple[int, int]
) -> str:
    """Return how the rows of a run in a folder differ from those of now: how many, and the first that differs.

    Args:
        unit: what a row is, such as "edits".
        there: the fields of each row in the folder, or a hash of them, as far as they are known, by the row's id.
        here: the same of the rows of now.
        counts: the number of all rows, there and here.
    """
    number = f"{counts[0]} {_SIDES[0]}, {counts[1]} {_SIDES[1]}; " if counts[0] != counts[1] else ""
    for position, (old, new) in enumerate(zip(there, here, strict=False), 1):
        if old != new:
            return f"{unit}: {number}number {position} is {old!r} {_SIDES[0]}, {new!r} {_SIDES[1]}"
        if differences := difference(there[old], here[new], sides=_SIDES):
            return f"{unit}: {number}the first that differs is {old!r} ({differences})"
    return f"{unit}: {number or 'others'}".removesuffix("; ")


@contextmanager
def folder_lock(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes out of an existing ``folder``; the lock of a killed process is free.

    ``wait``: seconds to wait for another process to end.
    """
    with _still_there(folder), _lock(folder, wait):
        yield


@contextmanager
def _still_there(folder: Path) -> Iterator[None]:
    """Raise at the end if the folder was deleted or replaced in the meantime, since the written files are then lost."""
    with ExitStack() as stack:
        with suppress(OSError):  # Windows can't open folders
            stack.callback(os.close, os.open(folder, os.O_RDONLY))  # an open folder's inode number is not reused
        before = _stat(folder)
        yield
        after = _stat(folder)
    if before is not None and (after is None or not os.path.samestat(before, after)):
        raise OutputError(
            f"{folder} was deleted or replaced during the run, and the files written there are lost; start again"
        )


def _stat(folder: Path) -> os.stat_result | None:
    try:
        return folder.stat()
    except OSError:
        return None


@contextmanager
def _lock(folder: Path, wait: float) -> Iterator[None]:
    lock = FileLock(folder / LOCK, timeout=wait)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another process works on {folder}; wait for it, end it, or give another folder") from error
    except (OSError, NotImplementedError):  # the file system has no locks
        yield
        return
    try:
        yield
    finally:
        lock.release()
