"""The entry points by which other packages add methods, and whose fault an exception is."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from traceback import extract_tb, walk_tb

from kg_edit.errors import ConfigError

ENTRY_POINTS = "kg_edit.methods"


def package_of(entry: EntryPoint) -> str:
    """Return the name of the distribution of an entry point, or its module."""
    return entry.dist.name if entry.dist else entry.module


def owner_of(method: type) -> str | None:
    """Return the name of the package whose plug-in a method is; None for a method without an entry point."""
    found = f"{method.__module__}:{method.__qualname__}"
    entries = entry_points(group=ENTRY_POINTS, name=getattr(method, "name", ""))
    return next((package_of(entry) for entry in entries if entry.value.replace(" ", "") == found), None)


def words(error: BaseException) -> str:
    """Return an exception's type, message and place, in one line."""
    # The import system's own frames say nothing about the package.
    frames = [one for one in extract_tb(error.__traceback__) if not one.filename.startswith("<frozen ")]
    return " ".join(f"{type(error).__name__}: {error}; {frames[-1].filename}, line {frames[-1].lineno}".split())


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
