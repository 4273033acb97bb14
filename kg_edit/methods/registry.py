"""Find a method by its name, without importing the others.

A folder of `kg_edit.methods` declares its methods in its ``__init__.py``, each with its module and class::

    METHODS = {"grace": "method:Grace"}

These files import nothing, so the names are there without torch. Other packages add methods by entry points in the
group ``kg_edit.methods``.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from kg_edit.errors import ConfigError, describe, unknown_name
from kg_edit.methods.plug_ins import ENTRY_POINTS, package_of, words

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod

log = logging.getLogger(__name__)


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, plug-ins included."""
    return tuple(sorted({*_packaged(), *(entry.name for entry in entry_points(group=ENTRY_POINTS))}))


def check_method(name: str) -> None:
    """Check that a method of this name exists, without importing it; warn if a plug-in's method has the same name.

    Raises:
        UnknownNameError: there is no such method; the message suggests a similar name.
    """
    if name in _packaged():
        warn_of_shadowed(name)
    elif name not in method_names():
        raise unknown_name("method", name, method_names())


def warn_of_shadowed(*names: str) -> None:
    """Warn of plug-ins that are not used because this package has a method of their name; by default of all."""
    packaged = _packaged()
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in packaged and (not names or entry.name in names):
            log.warning(
                "the method %r of the package %s is not used: kg-edit has a method of this name; give it another name",
                entry.name,
                package_of(entry),
            )


def find_method(name: str | type[EditingMethod]) -> type[EditingMethod]:
    """Import and return the class of a method; a class is returned as it is.

    Raises:
        UnknownNameError: there is no such method; the message suggests a similar name.
        ConfigError: something else is given; or the method is a plug-in's, and can't be imported, has another name, or
            lacks a part.
    """
    if isinstance(name, type):
        return name
    if not isinstance(name, str):
        raise ConfigError(f"found {describe(name)}; expected the name of a method, such as 'rome'")
    if target := _packaged().get(name):
        module, _, attribute = target.partition(":")
        packaged: type[EditingMethod] = getattr(import_module(module), attribute)
        return packaged
    plugins = entry_points(group=ENTRY_POINTS, name=name)  # slow, as it reads all installed packages
    if not plugins:
        raise unknown_name("method", name, method_names())
    if len({plugin.value for plugin in plugins}) > 1:
        owners = ", ".join(sorted(map(package_of, plugins)))
        raise ConfigError(f"several packages have a method {name!r}: {owners}; uninstall all but one")
    entry = plugins[name]
    owner = f"the method {name!r} of the package {package_of(entry)}"
    try:
        plugin: type[EditingMethod] = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # another package's code may raise anything when it is imported, or exit
        raise ConfigError(f"{owner} can't be imported ({words(error)}); update or uninstall that package") from error
    from kg_edit.methods.base import EditingMethod

    if not (isinstance(plugin, type) and issubclass(plugin, EditingMethod) and getattr(plugin, "name", None) == name):
        raise ConfigError(f"{owner}: expected a subclass of EditingMethod with this name, found {plugin!r:.80}")
    needed = ("about", "paper", "config_class", *sorted(plugin.__abstractmethods__))
    if lacks := [part for part in needed if part in plugin.__abstractmethods__ or not hasattr(plugin, part)]:
        raise ConfigError(f"{owner}: its class {plugin.__qualname__} has no {', '.join(lacks)}; report it there")
    return plugin


def _packaged() -> dict[str, str]:
    """The methods of this package: "kg_edit.zoo.grace.method:Grace" by name."""
    roots = [import_module(name) for name in ("kg_edit.methods", "kg_edit.zoo")]
    folders = [
        f"{root.__name__}.{module.name}" for root in roots for module in iter_modules(root.__path__) if module.ispkg
    ]
    return {
        name: f"{folder}.{target}"
        for folder in folders
        for name, target in getattr(import_module(folder), "METHODS", {}).items()
    }
