"""The entry points by which other packages add methods, and whose fault an exception is."""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb, walk_tb

from kg_edit.errors import ConfigError

ENTRY_POINTS = "kg_edit.methods"


def package_of(entry: EntryPoint) -> str:
    """Return the name of the distribution of an entry point, or its module."""
    return entry.dist.name if entry.dist else entry.module


def owner_of(method: type) -> str | None:
    """Return the name of the package whose plug-in a method is; None for a method without an entry point."""
    return package_of(entry) if (entry := _entry_of(method)) else None


def _entry_of(method: type) -> EntryPoint | None:
    target = f"{method.__module__}:{method.__qualname__}"
    entries = entry_points(group=ENTRY_POINTS, name=getattr(method, "name", ""))
    return next((entry for entry in entries if entry.value.replace(" ", "") == target), None)


def code_of(method: type) -> dict[str, str | None] | None:
    """Return the package of a plug-in's method, its version, and the SHA-256 of its Python files; None for others.

    Files of the top-level package count, or the one file of a module outside a package.
    """
    entry = _entry_of(method)
    if entry is None:
        return None
    top = sys.modules[method.__module__.partition(".")[0]]
    folders = [Path(folder) for folder in getattr(top, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    files = files or ([Path(top.__file__)] if top.__file__ else [])
    contents = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    version = entry.dist.version if entry.dist else None
    return {"package": package_of(entry), "version": version, "sha256": contents.hexdigest()}


def words(error: BaseException) -> str:
    """Return an exception's type, message and place, in one line."""
    # Frames of the import system and of this package say nothing about the other package.
    inner = ("<frozen ", str(Path(__file__).parent.parent))
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(inner)]
    where = f"; {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{where}".split())


def fault_of(what: str, package: str, error: Exception) -> ConfigError:
    """Return the error that names ``what`` of a package raised ``error``, with ``error`` as its cause."""
    fault = ConfigError(
        f"{what} of the package {package} failed ({words(error)}); report it there, with the traceback that "
        "KG_EDIT_TRACEBACK=1 shows"
    )
    fault.__cause__ = error
    return fault


def plug_in_fault(error: Exception) -> ConfigError | None:
    """Return `fault_of` an exception that passed through a plug-in's code, such as its ``__init__``; else None."""
    passed = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in walk_tb(error.__traceback__)}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.module.partition(".")[0] in passed - {__name__.partition(".")[0]}:
            return fault_of("a method", package_of(entry), error)
    return None
