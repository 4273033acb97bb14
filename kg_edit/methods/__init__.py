"""All editing methods. Each family has a folder; `registry` finds a method by name; `base` has the base class.

All names are imported on first access: the list of methods must work without torch.
"""

from typing import TYPE_CHECKING

from kg_common import lazy_names

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod
    from kg_edit.methods.config import MethodConfig
    from kg_edit.methods.registry import find_method, method_names

__all__ = ["EditingMethod", "MethodConfig", "find_method", "method_names"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "kg_edit.methods.base": ["EditingMethod"],
        "kg_edit.methods.config": ["MethodConfig"],
        "kg_edit.methods.registry": ["find_method", "method_names"],
    },
)
