"""Methods on tiny models, with the settings of the matrix: what nearly every test of the zoo starts from."""

from __future__ import annotations

from typing import Any, TypeVar

from kg_edit.methods.base import EditingMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

Method = TypeVar("Method", bound=EditingMethod)
Kind = TypeVar("Kind", bound=Patch)


def on_tiny(
    kind: type[Method],
    model: str | LanguageModel = "llama",
    *,
    preset: str = "default",
    graph: Any = None,
    **settings: Any,
) -> Method:
    """The method on a tiny model, given by its family, or on another one; settings that are not given make it quick."""
    return kind.on(
        tiny(model) if isinstance(model, str) else model,
        preset=preset,
        settings={**QUICK[kind.name], **settings},
        graph=graph,
    )


def of_kind(kind: type[Kind], patch: Patch) -> Kind:
    """The patch, which is of this kind."""
    assert isinstance(patch, kind)
    return patch
