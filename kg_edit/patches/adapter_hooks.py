"""Hooks that replace the output of a down-projection, given its own input or the input of the whole MLP.

With h [tokens, d] the MLP's input (after the norm) and x = f(h) [tokens, d_ff] the down-projection's input, an adapter
reads either h (``mlp``) or x (``key``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import UnsupportedModelError
from kg_edit.models.language_model import LanguageModel, matrix_shape

Reads = Literal["key", "mlp"]
Forward = Callable[[Tensor, Tensor], Tensor]
"""(inputs [tokens, in], the module's own output [tokens, out]) -> the new output [tokens, out]; all float32."""


def find_module_to_read(model: LanguageModel, layer: int, reads: Reads) -> nn.Module:
    """Find the module whose input an adapter reads.

    Args:
        model: a language model.
        layer: the block, 0-based.
        reads: ``key`` for the down-projection, ``mlp`` for a linear module that gets the MLP's input.
    """
    down = model.down_projection(layer)
    if reads == "key":
        return down
    parent, _, _ = model.weight_name(layer).removesuffix(".weight").rpartition(".")  # "model.layers.3.mlp"
    width, _ = matrix_shape(down)  # d: the down-projection's output is as wide as the MLP's input
    for child in model.model.get_submodule(parent).children():
        is_other_linear = isinstance(child, nn.Linear | Conv1D) and child is not down
        if is_other_linear and matrix_shape(child)[1] == width:
            return child
    raise UnsupportedModelError(
        f"{model.name} has no linear module next to {model.weight_name(layer)} that reads the MLP's input; use a "
        "method that reads the down-projection's input, such as memoir"
    )


@contextmanager
def replace_output(model: LanguageModel, layer: int, forward: Forward, *, reads: Reads = "key") -> Iterator[None]:
    """Within the ``with`` block, replace the output of a down-projection by what ``forward`` returns.

    Args:
        model: a language model.
        layer: the block, 0-based.
        forward: from inputs [tokens, in] and the module's own output [tokens, out] to the new output.
        reads: the inputs: those of the down-projection (``key``), or of the MLP (``mlp``).
    """
    down = model.down_projection(layer)
    seen = dict[str, Tensor]()  # of one pass: the MLP's input, which `note` keeps until `hook` is called

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen["mlp"] = args[0]

    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        state = args[0]  # x, the down-projection's own input
        if reads == "mlp":
            state = seen["mlp"]  # h
        inputs = state.reshape(-1, state.shape[-1])  # [tokens, in]; some model families flatten the input of their MLP
        flat = output.reshape(len(inputs), -1)  # [tokens, out]
        return forward(inputs.float(), flat.float()).to(output).reshape(output.shape)

    with ExitStack() as hooks:
        if reads == "mlp":
            first = find_module_to_read(model, layer, reads)  # it runs before the down-projection, and has the input h
            hooks.enter_context(first.register_forward_pre_hook(note))
        hooks.enter_context(down.register_forward_hook(hook))
        yield
