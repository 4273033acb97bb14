"""Task files of EleutherAI's lm-evaluation-harness: which tasks and groups the files and folders of `--general` name.

A file has the task's name, ``task: NAME``, or a group with its members, ``group: NAME`` and ``task: [NAME, …]``. The
members of a group are asked as parts of the group, so they are not named again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kg_edit.errors import ConfigError

YAML = (".yaml", ".yml")


class WantedTasks(NamedTuple):
    """The folders with task files, the tasks' names, and whether the harness's own tasks are needed too."""

    folders: list[Path]
    names: list[str]
    own: bool


@dataclass(frozen=True)
class _TaskFile:
    """The name of a file's task or group ("" for a part of other files), and the names of the group's members."""

    path: Path
    name: str
    members: tuple[str, ...] = ()


def wanted_tasks(wanted: Sequence[str]) -> WantedTasks:
    """Return what ``wanted`` names: task files, folders of them, and names of the harness's own tasks.

    Raises:
        ConfigError: a file can't be read or has no task, or two files have a task of one name.
    """
    found = WantedTasks([], [], own=False)
    for part in wanted:
        path = Path(part)
        if is_task_place(path):
            found.folders.append(path if path.is_dir() else path.parent)
            found.names.extend(_names_in(path))
        else:
            found.names.append(part)
            found = found._replace(own=True)
    folders, names = list(dict.fromkeys(found.folders)), list(dict.fromkeys(found.names))
    _refuse_doubles(folders, names)
    return WantedTasks(folders, names, found.own)


def is_task_place(path: Path) -> bool:
    """Whether a path is a task file or a folder, and no task of the harness."""
    return path.is_dir() or path.suffix.casefold() in YAML


def _names_in(path: Path) -> list[str]:
    """The task of a file, or all tasks and groups of a folder, without the members of its groups."""
    files = [_task_file(file) for file in (_files_of(path) if path.is_dir() else [path])]
    inside = {member for file in files for member in file.members}
    names = [file.name for file in files if file.name and file.name not in inside]
    if not names:
        raise ConfigError(f"{path} is not a task of lm-eval: expected a .yaml file with a line 'task: NAME'")
    return names


def _files_of(folder: Path) -> Iterator[Path]:
    yield from sorted(file for ending in YAML for file in folder.glob(f"*{ending}"))


def _task_file(path: Path) -> _TaskFile:
    """Read a file's names.

    Raises:
        ConfigError: it can't be read, or is no YAML.
    """
    import yaml

    try:  # the base loader reads all values as text, and runs nothing for tags such as !function
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"can't read the task {path}: {said}; give a file of lm-eval: NAME.yaml") from error
    fields = found if isinstance(found, dict) else {}
    task, group = fields.get("task"), fields.get("group")
    if isinstance(group, str):
        return _TaskFile(path, group, tuple(_members(task)))
    return _TaskFile(path, task if isinstance(task, str) else "")


def _members(task: Any) -> Iterator[str]:
    """The names in a group's ``task``: texts, ``{task: NAME, …}``, and groups inside of it."""
    for one in task if isinstance(task, list) else [task]:
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            if "group" in one:
                yield str(one["group"])
            yield from _members(one.get("task"))


def _refuse_doubles(folders: Iterable[Path], names: Iterable[str]) -> None:
    """Refuse two files with one name, because the harness would ask only one of them."""
    first: dict[str, Path] = {}
    wanted = set(names)
    for path in dict.fromkeys(file.resolve() for folder in folders for file in _files_of(folder)):
        try:
            name = _task_file(path).name
        except ConfigError:  # a file beside the wanted ones
            continue
        if name in wanted and name in first:
            raise ConfigError(f"{first[name]} and {path} both have the task {name!r}; give each a different name")
        first.setdefault(name, path)
