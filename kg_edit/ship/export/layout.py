"""How a model holds the weights that an adapter changes: their shapes, and whether they are stored transposed.

`layout_for` reads it from the files of a model, without torch. Where that is not possible, the model is built from its
configuration, without weights, and `ModuleLayout` asks its modules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safetensors import SafetensorError

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.models.architectures import ARCHITECTURES
from kg_edit.models.loading import files_at_hand, stored_shapes

if TYPE_CHECKING:  # an adapter is written without torch
    from torch import nn

_TRANSPOSED = ("gpt2",)  # families whose modules hold W as [in, out]
_IN_A_BLOCK = re.compile(r"\.[0-9]+\..+\.weight$")  # in the name of a weight


class WeightPlace(NamedTuple):
    """A weight in a model: its shape (out, in), and whether its module is a Conv1D."""

    shape: tuple[int, int]
    is_conv1d: bool


class Layout(Protocol):
    """What an adapter has to know of a model."""

    @property
    def config(self) -> Any:
        """The model's configuration, with attributes such as ``model_type`` and ``num_hidden_layers``."""

    def find(self, weight: str) -> WeightPlace:
        """Return the place of a weight, given its name as in the state dict."""


@dataclass(frozen=True, eq=False)
class ModuleLayout:
    """The layout of a model in memory, with weights or without (`blank_model`)."""

    modules: nn.Module

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.modules.config

    def find(self, weight: str) -> WeightPlace:
        """Return the place of a weight; refuse one of a module that an adapter can't change."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        try:
            module = self.modules.get_submodule(weight.removesuffix(".weight"))
        except AttributeError as error:
            raise PatchMismatchError(
                f"the model has no weight {weight}; give the model that the patch is for"
            ) from error
        if not isinstance(module, nn.Linear | Conv1D):
            raise PatchError(
                f"{weight} is the weight of {type(module).__name__}; an adapter changes Linear and Conv1D weights only"
            )
        is_conv1d = isinstance(module, Conv1D)
        weight_as_linear = module.weight.T if is_conv1d else module.weight  # [out, in]
        rows, columns = weight_as_linear.shape
        return WeightPlace((rows, columns), is_conv1d)


@dataclass(frozen=True, eq=False)
class StoredLayout:
    """The layout of a model's files: its config.json, and the shapes of weights as they are stored."""

    config: SimpleNamespace
    shapes: Mapping[str, tuple[int, ...]]

    def find(self, weight: str) -> WeightPlace:
        """Return the place of a weight that `has` knows."""
        rows, columns = self.shapes[weight]
        return WeightPlace((rows, columns), is_conv1d=False)

    def has(self, weight: str) -> bool:
        """Return whether a weight [out, in] of a block is stored under the name that it has in the loaded model."""
        return bool(_IN_A_BLOCK.search(weight)) and len(self.shapes.get(weight, ())) == 2


def layout_for(model: str, weights: Iterable[str]) -> Layout:
    """Return the layout of a model for an adapter of these weights: from its files, or else of its modules."""
    stored = _read_layout(model)
    if stored is not None and all(stored.has(weight) for weight in weights):
        return stored
    from kg_edit.ship.export.merged_model import blank_model  # loads torch

    return ModuleLayout(blank_model(model))


def _read_layout(model: str) -> StoredLayout | None:
    """Return the layout of a model's files; None if its modules have to be looked at, or no file can be read."""
    folder = files_at_hand(model)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_bytes())
        shapes = stored_shapes(folder)
        family = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):  # `blank_model` then says what is wrong
        return None
    if family not in ARCHITECTURES or family in _TRANSPOSED or "num_hidden_layers" not in config:
        return None
    return StoredLayout(SimpleNamespace(**config), shapes)
