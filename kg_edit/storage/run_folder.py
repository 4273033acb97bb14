"""The folder of a run: its ``run.json`` has all settings that decide the results, and only the same settings resume it.

`check_folder` refuses a folder early, `claim` writes ``run.json`` into it, and `replace_run` starts another run in its
place. For a setting that names a file, the file's content counts (`kg_edit.storage.setting_fields.input_files`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import rmtree
from typing import TypeVar
from uuid import uuid4

from kg_edit.errors import AnotherRunError, OutputError
from kg_edit.storage.atomic import write_json
from kg_edit.storage.locks import lock
from kg_edit.storage.run_differences import SIDES, Settings, describe_difference

_RUN = "run.json"
ENVIRONMENTS = "environments.jsonl"
_BEFORE_RESULTS = {_RUN, ENVIRONMENTS}  # what a run writes before its first result
VERSION = 1  # of the format of a run's folder
PATCH = "patch.safetensors"  # the patch in the folder of `kg-edit edit`

# The files and folders that commands write, besides hidden files: what `delete_run` may delete.
_WRITTEN_BY = {
    "several": (_RUN, "layer.json", "records.jsonl", "summary.json", "report.*", "subgraph-*.svg"),
    "edit": ("patch*.safetensors", "losses.jsonl", "alone.jsonl", "failed.jsonl", "edits.jsonl", "locality.jsonl"),
    "evaluate": ("general.jsonl", ENVIRONMENTS, "judge.jsonl", "curve.svg", "walks.html", "patches"),
    "train": ("network.safetensors", "checkpoint.safetensors", "states.safetensors"),
    "locate, drift": ("heatmap*.svg", "head.safetensors", "texts.jsonl", "points.jsonl"),
    "sweep": ("table.md", "picture.svg"),
}
_RENAMED = ".*-????????"  # a folder that `delete_run` had renamed when it was killed
# What ``run.json`` has of the rows that a run edits: their number, their ids, and a hash of all.
_OF_ROWS = ("edits", "edits_sha256", "ids", "records_sha256")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def claim(
    folder: Path,
    settings: Settings,
    *,
    extended: Settings | None = None,
    describe_rows: Callable[[], str | None] = lambda: None,
) -> None:
    """Write ``run.json`` into a folder, or check that it has the same settings.

    the folder has no results                 ``run.json`` is written
    it has results                            ``run.json`` must have ``settings``; the run is resumed
    it has results, ``extended`` is given     ``run.json`` must have ``extended``, and gets ``settings``; results stay

    Args:
        folder: the folder of the run.
        settings: the settings of the run.
        extended: the settings of an earlier, smaller run in the folder, which this run extends. The folder must have
            these instead of ``settings``, which then replace them.
        describe_rows: as for `check_folder`.
    """
    check_folder(folder, extended or settings, describe_rows=describe_rows)
    content = {"version": VERSION, **settings}
    has_results = bool(_names(folder) - _BEFORE_RESULTS)
    if extended is not None or not has_results:
        write_json(folder / _RUN, content)
    if extended is None and not has_results:  # nothing was computed in the environments of an earlier run
        (folder / ENVIRONMENTS).unlink(missing_ok=True)


def is_run(folder: Path) -> bool:
    """Return whether a folder has the settings of a run."""
    return os.path.isfile(folder / _RUN)  # noqa: PTH113 - unlike Path's, it never raises


def check_folder(
    folder: Path,
    settings: Settings | None = None,
    *,
    describe_rows: Callable[[], str | None] = lambda: None,
) -> None:
    """Refuse early, without writing anything, what `claim` would refuse.

    Args:
        folder: the folder of the run.
        settings: the settings of the run; None: whether another run is there is not checked.
        describe_rows: called if the edits or records differ from those in the folder; returns in words how. If it
            returns None, the counts and hashes are named, which are all that ``run.json`` has of them.
    """
    _check_writable(folder)
    names = _names(folder)
    if names and _RUN not in names:
        raise OutputError(f"{folder} is not empty and has no run of kg-edit; give another --out")
    has_results = bool(names - _BEFORE_RESULTS)
    if not has_results or settings is None:
        return
    there = read_settings(folder)
    here = json.loads(json.dumps(settings))  # with lists for tuples, as in the file
    found = describe_difference(there, here, sides=SIDES)
    if not found:
        return
    has_other_rows = any(there.get(name) != here.get(name) for name in _OF_ROWS)
    if has_other_rows and there.get("job") == here.get("job"):
        found = describe_rows() or found
    way = f"give another --out, or delete {folder} to start over"
    raise AnotherRunError(f"{folder} contains another run ({found})", way)


def _check_writable(folder: Path) -> None:
    """Check that ``folder`` can be written, or created in the nearest folder above it that exists."""
    try:
        nearest = folder
        while not nearest.exists():
            nearest = nearest.parent
    except OSError as error:  # in a folder that can't be entered, or with a name that is too long
        raise OutputError(f"can't write into {folder}: {error.strerror}; give another --out") from error
    if not nearest.is_dir():
        raise OutputError(f"{nearest} is a file; give --out a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"can't write into {folder}: no permission to create or change it; give another --out")


def replace_run(folder: Path, work: Callable[[], Result], *, overwrite: bool) -> Result:
    """Return ``work()``, whose results are in ``folder``; with ``overwrite``, another run there gives way to it.

    ``work`` itself finds the other run, by `check_folder`: it raises AnotherRunError before it computes anything. Then
    that run is deleted, and ``work`` is called once more. The same run is resumed, as without ``overwrite``.
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
    _check_deletable(folder)
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


def _check_deletable(folder: Path) -> None:
    """Refuse to delete a folder that has no run of kg-edit, other files too, or a run at which a process works."""
    settings = read_settings(folder)
    if not {"job", "method", "command"} & settings.keys():  # another program's run.json
        raise OutputError(f"{folder} has no run of kg-edit; give another --out")
    foreign = _find_foreign(folder)
    if foreign:
        raise OutputError(f"{folder} also has files of yours ({foreign[0]}); move them, or give another --out")
    for run in (folder, *filter(is_run, folder.iterdir())):
        with lock(run):  # raises if another process has the lock; else it is free again at once
            pass


def _find_foreign(folder: Path) -> list[str]:
    """Return the names in a run's folder that no run has, sorted: other files, and hidden folders such as .git."""
    foreign = [name for name in _names(folder) if not _is_written(folder / name)]
    for path in folder.iterdir():
        is_hidden_folder = path.name.startswith(".") and path.is_dir()
        if is_hidden_folder and not fnmatchcase(path.name, _RENAMED):
            foreign.append(path.name)
    return sorted(foreign)


def _is_written(path: Path) -> bool:
    """Return whether a run writes a file or a folder of this name; a sweep's folder also has the runs of its cells."""
    for patterns in _WRITTEN_BY.values():
        if any(fnmatchcase(path.name, pattern) for pattern in patterns):
            return True
    return is_run(path) and not _find_foreign(path)


def _names(folder: Path) -> set[str]:
    """Return the names in a folder, except hidden ones (a killed process's scratch file, a file manager's notes)."""
    try:
        if not folder.is_dir():
            return set()
        return {file.name for file in folder.iterdir() if not file.name.startswith(".")}
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
