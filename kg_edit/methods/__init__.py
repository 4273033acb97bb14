"""All editing methods: a folder a family, `registry` by name, `base` for the shape that all have."""

from kg_edit.methods.base import EditingMethod, MethodConfig
from kg_edit.methods.registry import find_method, method_names

__all__ = ["EditingMethod", "MethodConfig", "find_method", "method_names"]
