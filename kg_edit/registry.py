"""The registry: which methods, commands, data sets and kinds of patches there are, without importing any of them.

An entry says in a line what something is, and where its code lies. Entries come from entry points, those of this
package (`pyproject.toml`) as those of others. The value of an entry point is an entry, or a tuple of entries::

    [project.entry-points."kg_edit.methods"]
    nudge = "kg_edit_toys.entries:NUDGE"

    # kg_edit_toys/entries.py
    NUDGE = MethodEntry("nudge", "add the target's directions", paper="…", target="kg_edit_toys.nudge:Nudge")

The name that counts is the entry's, here ``MethodEntry("nudge"``. That of the entry point, here ``nudge =``, only
appears in warnings; an entry point with a tuple of entries has one name for all of them.

The modules with entries import no torch, so listings and ``--help`` are quick. `load` is the one place where a module
is imported by a name in a string.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from kg_edit.errors import ConfigError, describe

METHODS = "kg_edit.methods"
COMMANDS = "kg_edit.commands"
DATASETS = "kg_edit.datasets"
PATCH_KINDS = "kg_edit.patch_kinds"
SERVICES = "kg_edit.services"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MethodEntry:
    """An editing method.

    Attributes:
        name: the name that ``--method`` takes.
        about: what it does, in one line.
        paper: its paper.
        target: its class, as "module:Class".
        family: which computation it does (`kg_edit.methods.config`); "": its own.
        changes: what a patch changes: weights, a layer's output (adapter) or the prompt.
        joint: whether all edits of a call are computed together; else in sequence, each on the model with the earlier
            ones.
        separable: whether one edit can be removed from a patch without computing the others again.
        needs_graph: whether it needs a knowledge graph.
        takes_text: whether it makes unstructured edits: a paragraph (``target_text``).
    """

    name: str
    about: str
    _: KW_ONLY
    paper: str
    target: str
    family: str = ""
    changes: Literal["weights", "adapter", "prompt"] = "weights"
    joint: bool = False
    separable: bool = False
    needs_graph: bool = False
    takes_text: bool = False


@dataclass(frozen=True)
class CommandEntry:
    """A command of ``kg-edit``, or a group of commands.

    Attributes:
        name: as it is typed.
        about: the line of ``kg-edit --help``.
        target: the function of a command, or the `typer.Typer` of a group, as "module:name".
        panel: the panel of ``kg-edit --help`` in which it is.
        is_group: whether the target is a group.
        resumes: whether the same command again continues a run that was stopped.
    """

    name: str
    about: str
    _: KW_ONLY
    target: str
    panel: str = "Others"
    is_group: bool = False
    resumes: bool = False


@dataclass(frozen=True)
class DatasetEntry:
    """A benchmark.

    Attributes:
        name: the name that ``--dataset`` takes.
        target: its `Dataset`, as "module:NAME".
        metrics: the table of the metrics that its probes bring (name -> `Metric`), as "module:NAME"; "": it has only
            probes that other metrics read.
    """

    name: str
    _: KW_ONLY
    target: str
    metrics: str = ""


@dataclass(frozen=True)
class PatchEntry:
    """A kind of patch: the ``kind`` in its file, and the class that reads it, as "module:Class"."""

    name: str
    _: KW_ONLY
    target: str


@dataclass(frozen=True)
class ServiceEntry:
    """A module of a wing that the core calls, if the wing is there. Its ``name`` says what it does for the core:

    ``ledger`` (of `kg_edit.ship`) reads a folder of patches, ``layer choice`` (of `kg_edit.evaluation`) finds the layer
    of ``--layer auto``.
    """

    name: str
    _: KW_ONLY
    target: str


Entry = TypeVar("Entry", MethodEntry, CommandEntry, DatasetEntry, PatchEntry, ServiceEntry)
_ENTRY_CLASSES: dict[str, type[Any]] = {  # by group of entry points
    METHODS: MethodEntry,
    COMMANDS: CommandEntry,
    DATASETS: DatasetEntry,
    PATCH_KINDS: PatchEntry,
    SERVICES: ServiceEntry,
}


def method_entries() -> dict[str, MethodEntry]:
    """Return the entries of all methods, plug-ins included, by name."""
    return _find_entries(METHODS, MethodEntry)


def command_entries() -> dict[str, CommandEntry]:
    """Return the entries of all commands, plug-ins included, by name."""
    return _find_entries(COMMANDS, CommandEntry)


def dataset_entries() -> dict[str, DatasetEntry]:
    """Return the entries of all data sets, plug-ins included, by name."""
    return _find_entries(DATASETS, DatasetEntry)


def patch_entries() -> dict[str, PatchEntry]:
    """Return the entries of all kinds of patches, plug-ins included, by name."""
    return _find_entries(PATCH_KINDS, PatchEntry)


def load_service(name: str) -> Any:
    """Import and return the module that does what ``name`` says."""
    entry = _find_entries(SERVICES, ServiceEntry).get(name)
    if entry is None:
        raise ConfigError(f"this needs the part of kg-edit with the service {name!r}; install kg-edit again")
    return load(entry.target)


def load(target: str) -> Any:
    """Import what an entry's ``target`` is: "module:name", or a module.

    A module of this package raises its own error if it can't be imported. One of another package raises a ConfigError.
    """
    module, _, name = target.partition(":")
    try:
        imported = import_module(module)
        if not name:
            return imported
        return getattr(imported, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the import of another package's code may raise anything, or exit
        if _is_our_module(module):
            raise
        raise ConfigError(
            f"{target} can't be imported ({type(error).__name__}: {error}); update or uninstall its package"
        ) from error


def package_of(target: str) -> tuple[str, str | None] | None:
    """Return the package, and its version, whose entry has this ``target``; None if it is one of ours."""
    for group, entry_class in _ENTRY_CLASSES.items():
        for point, entry in _load_entries(group, entry_class):
            if entry.target == target and not _is_ours(point):
                version = point.dist.version if point.dist else None
                return _package_name(point), version
    return None


def _find_entries(group: str, entry_class: type[Entry]) -> dict[str, Entry]:
    """Return the entries of a group by name, ours first; if a name is taken, the log warns and the entry isn't used."""
    found = dict[str, Entry]()
    loaded = list(_load_entries(group, entry_class))
    ours = [(point, entry) for point, entry in loaded if _is_ours(point)]
    others = [(point, entry) for point, entry in loaded if not _is_ours(point)]
    for point, entry in ours + others:
        if entry.name in found:
            log.warning(
                "%r of the package %s is not used, as the name is taken; give it another name",
                entry.name,
                _package_name(point),
            )
        else:
            found[entry.name] = entry
    return found


def _load_entries(group: str, entry_class: type[Entry]) -> Iterator[tuple[EntryPoint, Entry]]:
    """Yield each entry of a group with its entry point.

    One of another package that can't be used is left out with a warning. One of ours that can't be imported raises an
    error that is not a ConfigError (`load`), so it isn't caught here.
    """
    for point in entry_points(group=group):
        try:
            entries = _load_point(point, entry_class)
        except ConfigError as error:
            log.warning("the entry point %r of the package %s is not used: %s", point.name, _package_name(point), error)
            continue
        for entry in entries:
            yield point, entry


def _load_point(point: EntryPoint, entry_class: type[Entry]) -> tuple[Entry, ...]:
    """Return the entries of an entry point, whose value is one entry or a tuple of entries."""
    value = load(point.value)
    entries = value if isinstance(value, tuple) else (value,)
    for entry in entries:
        if not isinstance(entry, entry_class):
            raise ConfigError(f"expected a {entry_class.__name__}, found {describe(entry)}")
    return entries


def _is_ours(point: EntryPoint) -> bool:
    """Return whether an entry point is one of this package."""
    return _is_our_module(point.module)


def _is_our_module(module: str) -> bool:
    """Return whether a module, such as "kg_edit.zoo.entries", is one of this package."""
    return module.partition(".")[0] == __name__.partition(".")[0]


def _package_name(point: EntryPoint) -> str:
    """Return the name of the package that an entry point belongs to."""
    if point.dist is None:
        return point.module
    return point.dist.name


def plug_in_code(target: str) -> dict[str, str | None] | None:
    """Return the package of a plug-in's method, its version, and the SHA-256 of its Python files.

    Args:
        target: the method's class, as in its entry: "module:Class".

    Returns:
        None for a method of this package.
    """
    package = package_of(target)
    if package is None:
        return None
    name, version = package
    digest = hashlib.sha256()
    for file in _python_files(target.partition(":")[0]):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return {"package": name, "version": version, "sha256": digest.hexdigest()}


def _python_files(module: str) -> list[Path]:
    """Return all Python files of the top-level package of a module; of a module outside a package, its own file.

    The module was imported, as its class made the edit. So its package is among the loaded modules.
    """
    top = sys.modules[module.partition(".")[0]]
    files = list[Path]()
    for folder in getattr(top, "__path__", ()):
        files += sorted(Path(folder).rglob("*.py"))
    if not files and top.__file__:
        files = [Path(top.__file__)]
    return files
