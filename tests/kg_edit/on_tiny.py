"""Methods on tiny models, with the settings of the matrix: what nearly every test of a method starts from."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from kg_edit.methods import find_method
from kg_edit.methods.base import EditingMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

Method = TypeVar("Method", bound=EditingMethod)
Kind = TypeVar("Kind", bound=Patch)


@overload
def on_tiny(
    kind: type[Method], model: str | LanguageModel = ..., *, preset: str = ..., graph: Any = ..., **settings: Any
) -> Method: ...


@overload
def on_tiny(
    kind: str, model: str | LanguageModel = ..., *, preset: str = ..., graph: Any = ..., **settings: Any
) -> EditingMethod: ...


def on_tiny(
    kind: type[EditingMethod] | str,
    model: str | LanguageModel = "llama",
    *,
    preset: str = "default",
    graph: Any = None,
    **settings: Any,
) -> EditingMethod:
    """The method, given by its class or name, on a tiny model, given by its family, or on another model.

    Settings that are not given make it quick. A method that reads no graph gets none.
    """
    chosen = find_method(kind) if isinstance(kind, str) else kind
    return chosen.on(
        tiny(model) if isinstance(model, str) else model,
        preset=preset,
        settings={**QUICK[chosen.name], **settings},
        graph=graph if chosen.needs_graph or chosen.takes_graph else None,
    )


def of_kind(kind: type[Kind], patch: Patch) -> Kind:
    """The patch, which is of this kind."""
    assert isinstance(patch, kind)
    return patch
