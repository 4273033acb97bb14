"""All methods by name; a third party adds one by an entry point in the group ``kg_edit.methods``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from kg_edit.errors import unknown_name
from kg_edit.methods.base import EditingMethod, MethodConfig

__all__ = ["EditingMethod", "MethodConfig", "find_method", "method_names"]

ENTRY_POINTS = "kg_edit.methods"

_METHODS = {
    "glame": "kg_edit.methods.glame:Glame",
    "rome": "kg_edit.methods.rome:Rome",
}


def method_names() -> tuple[str, ...]:
    """The names of all methods, plug-ins included."""
    return tuple(sorted({*_METHODS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))}))


def find_method(name: str) -> type[EditingMethod]:
    """The class of a method, imported only now.

    Raises:
        UnknownNameError: there is none of that name; suggests a near one.
    """
    if name not in method_names():
        raise unknown_name("method", name, method_names())
    if name not in _METHODS:
        plugin: type[EditingMethod] = entry_points(group=ENTRY_POINTS)[name].load()
        return plugin
    module, _, attribute = _METHODS[name].partition(":")
    found: type[EditingMethod] = getattr(import_module(module), attribute)
    return found
