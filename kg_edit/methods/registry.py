"""Find a method by its name, without importing the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from kg_edit.errors import ConfigError, describe, unknown_name
from kg_edit.registry import load, method_entries

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, plug-ins included."""
    return tuple(sorted(method_entries()))


def check_method(name: str) -> None:
    """Check that a method of this name exists, without importing it."""
    names = method_names()
    if name not in names:
        raise unknown_name("method", name, names)


def find_method(name: str | type[EditingMethod]) -> type[EditingMethod]:
    """Import and return the class of a method; a class is returned as it is.

    Raises:
        UnknownNameError: there is no such method; the message suggests a similar name.
        ConfigError: something else is given; or the method is a plug-in's, and can't be imported or is no method.
    """
    if not isinstance(name, str):
        if _is_method(name):
            return name
        raise ConfigError(f"found {describe(name)}; expected the name of a method, such as 'rome', or its class")
    check_method(name)
    entry = method_entries()[name]
    method = load(entry.target)
    if _is_method(method) and method.entry.name == name:
        return method
    raise ConfigError(f"{entry.target}: expected the subclass of EditingMethod with the entry {name!r}")


def _is_method(value: object) -> TypeGuard[type[EditingMethod]]:
    """Return whether a value is a subclass of `EditingMethod`."""
    from kg_edit.methods.base import EditingMethod  # here, as it imports torch, which listings do without

    return isinstance(value, type) and issubclass(value, EditingMethod)
