"""The entry points by which other packages add methods."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

ENTRY_POINTS = "kg_edit.methods"


def package_of(entry: EntryPoint) -> str:
    """Return the name of the distribution of an entry point, or its module."""
    return entry.dist.name if entry.dist else entry.module


def owner_of(method: type) -> str | None:
    """Return the name of the package whose plug-in a method is; None for a method without an entry point."""
    found = f"{method.__module__}:{method.__qualname__}"
    entries = entry_points(group=ENTRY_POINTS, name=getattr(method, "name", ""))
    return next((package_of(entry) for entry in entries if entry.value.replace(" ", "") == found), None)
