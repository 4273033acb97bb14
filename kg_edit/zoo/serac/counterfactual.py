"""SERAC's counterfactual model: the model with low-rank changes W + left right, which act from a marker on.

    y = W x + left right x      at the marker's token and all tokens after it;   y = W x  before it

left is [out, r], right [r, in]. The marker stands before the fact that the model reads (`serac.patch`). A text without
it is answered by the unchanged model, bit for bit, also in the same batch or packed row.

The published counterfactual model is a small language model of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import module_of
from kg_edit.zoo.token_means import AfterMarker

Pair = tuple[Tensor, Tensor]
"""The factors of a change: left [out, r] and right [r, in]."""


@contextmanager
def change_after_marker(model: LanguageModel, marker: int, changes: Mapping[str, Pair]) -> Iterator[None]:
    """Within the ``with`` block, ``left right x`` is added to a module's output at the tokens from the marker on.

    A text without the marker is not changed, bit for bit. Gradients flow to the changes.

    Args:
        model: whose modules are changed.
        marker: the token id.
        changes: (left [out, r], right [r, in]) by the weight's name.
    """
    modules = dict[str, nn.Module]()
    for name, (left, right) in changes.items():
        modules[name] = module_of(model, name, shape=(len(left), right.shape[1]))
    with ExitStack() as stack:
        after = stack.enter_context(AfterMarker(model, marker, name="serac").attached())
        for name, (left, right) in changes.items():
            stack.enter_context(modules[name].register_forward_hook(_add_after(after, left, right)))
        yield


def _add_after(after: AfterMarker, left: Tensor, right: Tensor) -> Callable[..., Tensor | None]:
    """Return a forward hook that adds ``left right x`` at the tokens from the marker on."""

    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        inputs = args[0].reshape(-1, args[0].shape[-1])  # [tokens, in]; some model families flatten it themselves
        acting = after.at(len(inputs))  # [tokens, 1]; 1 from the marker on
        if acting is None:  # no text has the marker
            return None
        change = inputs.float() @ right.to(inputs.device).T @ left.to(inputs.device).T  # [tokens, out]
        moved: Tensor = output + (acting.to(change.device) * change).to(output).reshape(output.shape)
        return moved

    return add


def block_weights(model: LanguageModel, blocks: int) -> tuple[str, ...]:
    """Return the state-dict names of all linear modules' weights in the last ``blocks`` blocks."""
    depth = len(model.blocks)
    if not 1 <= blocks <= depth:
        raise ConfigError(f"blocks = {blocks}: {model.name} has {depth} blocks; give a number from 1 to {depth}")
    names = list[str]()
    for layer in range(depth - blocks, depth):
        for name, module in model.block(layer).named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                names.append(f"{model.spec.blocks}.{layer}.{name}.weight")
    return tuple(names)
