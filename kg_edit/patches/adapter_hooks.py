"""Hooks that replace the output of a down-projection, given its own input or the input of the whole MLP.

With h the MLP's input [tokens, d] (after the norm) and x = f(h) the down-projection's input [tokens, d_ff], a side
reads either h (``mlp``) or x (``key``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import UnsupportedModelError
from kg_edit.models.language_model import LanguageModel, weight_matrix

Reads = Literal["key", "mlp"]
Answer = Callable[[Tensor, Tensor], Tensor]
"""(inputs [tokens, in], the module's own output [tokens, out]) -> the new output [tokens, out]; all float32."""


def read_module(model: LanguageModel, layer: int, reads: Reads) -> nn.Module:
    """The module of block ``layer`` whose input is read: the down-projection, or the first that gets the MLP's input.

    Raises:
        UnsupportedModelError: no linear module beside the down-projection reads the model's width.
    """
    down = model.down_projection(layer)
    if reads == "key":
        return down
    parent = model.weight_name(layer).removesuffix(".weight").rpartition(".")[0]
    for child in model.model.get_submodule(parent).children():
        linear = isinstance(child, nn.Linear | Conv1D) and child is not down
        if linear and weight_matrix(child).shape[1] == weight_matrix(down).shape[0]:
            return child
    raise UnsupportedModelError(
        f"{model.name} has no linear module beside {model.weight_name(layer)} that reads the MLP's input; use a method "
        "that reads the down-projection's input, such as memoir"
    )


@contextmanager
def answering(model: LanguageModel, layer: int, answer: Answer, *, reads: Reads = "key") -> Iterator[None]:
    """Within the ``with`` block, ``answer`` replaces the output of the down-projection of block ``layer``."""
    down, reader = model.down_projection(layer), read_module(model, layer, reads)
    held: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        held[:] = [args[0]]

    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        given = args[0] if reads == "key" else held[0]
        inputs = given.reshape(-1, given.shape[-1])  # some model families flatten the input of their MLP
        flat = output.reshape(len(inputs), -1)
        return answer(inputs.float(), flat.float()).to(output).reshape(output.shape)

    handles = [down.register_forward_hook(hook)]
    if reads == "mlp":
        handles.append(reader.register_forward_pre_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
