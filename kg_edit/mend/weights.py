"""Which weights are edited: by default all matrices of the MLPs of the last blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel, weight_matrix

Shape = tuple[int, int]
_WEIGHT = ".weight"


def mlp_weights(model: LanguageModel, blocks: int) -> tuple[str, ...]:
    """The state-dict names of the MLPs' matrices in the last ``blocks`` blocks.

    They are the linear modules beside the down-projection: up, down, and gate where there is one.

    Raises:
        ConfigError: the model has fewer blocks.
    """
    depth = len(model.blocks)
    if not 1 <= blocks <= depth:
        raise ConfigError(f"blocks = {blocks}: {model.name} has {depth} blocks; give a number from 1 to {depth}")
    names: list[str] = []
    for layer in range(depth - blocks, depth):
        parent = model.weight_name(layer).removesuffix(_WEIGHT).rpartition(".")[0]
        children = model.model.get_submodule(parent).named_children()
        names += [f"{parent}.{name}{_WEIGHT}" for name, child in children if isinstance(child, nn.Linear | Conv1D)]
    return tuple(names)


def edited_modules(model: LanguageModel, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that hold the weights of these names.

    Raises:
        ConfigError: a name is none of a linear module's weight inside a block.
    """
    return {name: _module(model, name) for name in names}


def weight_shapes(model: LanguageModel, names: Sequence[str]) -> dict[str, Shape]:
    """(out, in) of each weight.

    Raises:
        ConfigError: as `edited_modules`.
    """
    matrices = {name: weight_matrix(module) for name, module in edited_modules(model, names).items()}
    return {name: (matrix.shape[0], matrix.shape[1]) for name, matrix in matrices.items()}


def first_block(model: LanguageModel, names: Sequence[str]) -> int:
    """The lowest block (0-based) that holds one of the weights: nothing below it feels an edit."""
    return min(int(name.removeprefix(f"{model.spec.blocks}.").partition(".")[0]) for name in names)


def _module(model: LanguageModel, name: str) -> nn.Module:
    try:
        module = model.model.get_submodule(name.removesuffix(_WEIGHT))
    except AttributeError:
        module = None
    inside = name.startswith(f"{model.spec.blocks}.") and name.endswith(_WEIGHT)
    if not inside or not isinstance(module, nn.Linear | Conv1D):
        raise ConfigError(
            f"{name!r} is no linear module's weight in a block of {model.name}; give names such as "
            f"{model.weight_name(len(model.blocks) - 1)!r}"
        )
    return module
