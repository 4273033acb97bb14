"""All editing methods. Each family has a folder; `registry` finds a method by name; `base` has the base class.

The base classes are imported on first access, because the names and the list of methods must work without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kg_edit.methods.registry import find_method, method_names

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod
    from kg_edit.methods.config import MethodConfig

__all__ = ["EditingMethod", "MethodConfig", "find_method", "method_names"]


def __getattr__(name: str) -> object:
    """Import a base class on first access."""
    if name not in ("EditingMethod", "MethodConfig"):
        raise AttributeError(f"module 'kg_edit.methods' has no attribute {name!r}; it has: {', '.join(__all__)}")
    found: object = getattr(import_module("kg_edit.methods.base"), name)
    return found
