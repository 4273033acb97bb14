"""The registry: which methods, commands, data sets and kinds of patches there are, without importing any of them.

An entry says in a line what something is, and where its code lies. Entries come from entry points, those of this
package (`pyproject.toml`) as those of others. The value of an entry point is an entry, or a tuple of entries::

    [project.entry-points."kg_edit.methods"]
    nudge = "kg_edit_toys.entries:NUDGE"

    # kg_edit_toys/entries.py
    NUDGE = MethodEntry("nudge", "add the target's directions", paper="…", target="kg_edit_toys.nudge:Nudge")

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
        group: whether the target is a group.
        resumes: whether the same command again continues a run that was stopped.
    """

    name: str
    about: str
    _: KW_ONLY
    target: str
    panel: str = "Others"
    group: bool = False
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
    """What the core asks a wing to do, if it is there: a module, by what it does.

    ``ledger`` (of `kg_edit.ship`) reads a folder of patches, ``layer choice`` (of `kg_edit.evaluation`) finds the layer
    of ``--layer auto``.
    """

    name: str
    _: KW_ONLY
    target: str


Entry = TypeVar("Entry", MethodEntry, CommandEntry, DatasetEntry, PatchEntry, ServiceEntry)
_KINDS: dict[str, type] = {
    METHODS: MethodEntry,
    COMMANDS: CommandEntry,
    DATASETS: DatasetEntry,
    PATCH_KINDS: PatchEntry,
    SERVICES: ServiceEntry,
}


def method_entries() -> dict[str, MethodEntry]:
    """Return the entries of all methods, plug-ins included, by name."""
    return _entries(METHODS, MethodEntry)


def command_entries() -> dict[str, CommandEntry]:
    """Return the entries of all commands, plug-ins included, by name."""
    return _entries(COMMANDS, CommandEntry)


def dataset_entries() -> dict[str, DatasetEntry]:
    """Return the entries of all data sets, plug-ins included, by name."""
    return _entries(DATASETS, DatasetEntry)


def patch_entries() -> dict[str, PatchEntry]:
    """Return the entries of all kinds of patches, plug-ins included, by name."""
    return _entries(PATCH_KINDS, PatchEntry)


def service(name: str) -> Any:
    """Import and return the module that does what ``name`` says."""
    entry = _entries(SERVICES, ServiceEntry).get(name)
    if entry is None:
        raise ConfigError(f"this needs the part of kg-edit with the service {name!r}; install kg-edit again")
    return load(entry.target)


def load(target: str) -> Any:
    """Import what an entry's ``target`` is: "module:name", or a module."""
    module, _, name = target.partition(":")
    try:
        imported = import_module(module)
        return getattr(imported, name) if name else imported
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the import of another package's code may raise anything, or exit
        if module.partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise ConfigError(
            f"{target} can't be imported ({type(error).__name__}: {error}); update or uninstall its package"
        ) from error


def package_of(target: str) -> tuple[str, str | None] | None:
    """Return the package, and its version, whose entry has this ``target``; None if it is one of ours."""
    for group in _KINDS:
        for point, entry in _listed(group):
            if entry.target == target and not _is_ours(point):
                return _name_of(point), point.dist.version if point.dist else None
    return None


def _entries(group: str, kind: type[Entry]) -> dict[str, Entry]:
    """Return the entries of a group by name, ours first; a name that is taken is a warning, and so is a broken one."""
    found = dict[str, Entry]()
    for point, entry in sorted(_listed(group), key=lambda pair: not _is_ours(pair[0])):
        if entry.name in found:
            log.warning(
                "%r of the package %s is not used, as the name is taken; give it another name",
                entry.name,
                _name_of(point),
            )
            continue
        found[entry.name] = entry
    return found


def _listed(group: str) -> Iterator[tuple[EntryPoint, Any]]:
    """Yield each entry of a group with its entry point."""
    kind = _KINDS[group]
    for point in entry_points(group=group):
        try:
            value = load(point.value)
            given = value if isinstance(value, tuple) else (value,)
            for entry in given:
                if not isinstance(entry, kind):
                    raise ConfigError(f"expected a {kind.__name__}, found {describe(entry)}")
        except ConfigError as error:
            log.warning("the entry point %r of the package %s is not used: %s", point.name, _name_of(point), error)
            continue
        for entry in given:
            yield point, entry


def _is_ours(point: EntryPoint) -> bool:
    return point.module.partition(".")[0] == __name__.partition(".")[0]


def _name_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module


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
    module = target.partition(":")[0]
    top = sys.modules[module.partition(".")[0]]
    files = list[Path]()
    for folder in getattr(top, "__path__", ()):
        files += sorted(Path(folder).rglob("*.py"))
    if not files and top.__file__:  # a module outside a package
        files = [Path(top.__file__)]
    hashes = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    return {"package": name, "version": version, "sha256": hashlib.sha256(b"".join(hashes)).hexdigest()}
