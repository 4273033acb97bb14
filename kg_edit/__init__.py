"""Change single facts in a trained language model, and measure what follows from them.

    from kg_edit import Edit, LanguageModel, Rome, ask

    model = LanguageModel.load("smollm2-135m")
    edit = Edit(subject="Spike Hughes", prompt="{} originates from", target_new="Philadelphia")
    patch = Rome.on(model).edit([edit])
    with patch.applied(model) as edited:
        print(ask(edited, edit.text))
    patch.save("patch.safetensors")

The names of `__all__` are the front door; each is imported when it is first asked for, so `import kg_edit` alone
imports no torch. All else is in the subpackages; CONTRIBUTING.md names them in the order in which an edit flows.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kg_edit.version import __version__ as __version__

if TYPE_CHECKING:
    from kg_edit.datasets import find_dataset
    from kg_edit.edits.edit import Edit, Question
    from kg_edit.edits.files import read_edits
    from kg_edit.errors import KgEditError
    from kg_edit.methods.glame.method import Glame, GlameConfig
    from kg_edit.methods.registry import find_method, method_names
    from kg_edit.methods.rome.method import Rome, RomeConfig
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.scoring.generation import ask


_HOMES = {
    "Edit": "kg_edit.edits.edit",
    "Glame": "kg_edit.methods.glame.method",
    "GlameConfig": "kg_edit.methods.glame.method",
    "KgEditError": "kg_edit.errors",
    "LanguageModel": "kg_edit.models.language_model",
    "Patch": "kg_edit.patches.base",
    "Question": "kg_edit.edits.edit",
    "Rome": "kg_edit.methods.rome.method",
    "RomeConfig": "kg_edit.methods.rome.method",
    "ask": "kg_edit.scoring.generation",
    "find_dataset": "kg_edit.datasets",
    "find_method": "kg_edit.methods.registry",
    "method_names": "kg_edit.methods.registry",
    "read_edits": "kg_edit.edits.files",
}

__all__ = [
    "Edit",
    "Glame",
    "GlameConfig",
    "KgEditError",
    "LanguageModel",
    "Patch",
    "Question",
    "Rome",
    "RomeConfig",
    "ask",
    "find_dataset",
    "find_method",
    "method_names",
    "read_edits",
]


def __getattr__(name: str) -> object:
    """Import a name of `__all__` when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kg_edit' has no attribute {name!r}; it has: {', '.join(__all__)}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The module's own names and those that are imported when asked for."""
    return sorted({*globals(), *__all__})
