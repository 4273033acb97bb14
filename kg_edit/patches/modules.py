"""Where in a model a patch belongs."""

from __future__ import annotations

from torch import nn

from kg_edit.errors import PatchMismatchError
from kg_edit.models.language_model import LanguageModel, weight_matrix


def module_of(model: LanguageModel, name: str, *, shape: tuple[int, int]) -> nn.Module:
    """The module whose weight [out, in] has this name and ``shape``.

    Raises:
        PatchMismatchError: there is none; the patch is for another model.
    """
    try:
        module = model.model.get_submodule(name.removesuffix(".weight"))
        found = tuple(weight_matrix(module).shape)
    except AttributeError as error:
        raise PatchMismatchError(f"{model.name!r} has no weight {name}; the patch is for another model") from error
    if found != shape:
        raise PatchMismatchError(f"{name} is {found} in {model.name!r}, the patch is for {shape}")
    return module
