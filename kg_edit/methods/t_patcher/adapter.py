"""The side of T-Patcher: the last MLP gets one extra neuron for each mistake.

Huang et al., ICLR 2023, arXiv 2301.09785.

With h the MLP's input at a token, neurons with keys k_i [d], biases b_i and values v_i [d]:

    MLP'(h) = MLP(h) + sum_i max(0, k_i . h + b_i) v_i

The published program uses the MLP's own activation function. Here it is always ReLU, so the output of an inactive
neuron is exactly 0. A text without active neurons gets the same output as before, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_hooks import answering
from kg_edit.patches.adapter_patch import Side, layer_of
from kg_edit.patches.weight_patch import module_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Neurons(Side):
    """``keys`` [n, d], ``biases`` [n], ``values`` [n, d], for a down-projection of the shape ``size`` (d, d_ff).

    ``queries`` [n, d] are the MLP's inputs at the mistakes. Training keeps the neurons of later edits inactive there.
    """

    kind: ClassVar[str] = "t-patcher"

    size: tuple[int, int]
    keys: Tensor
    biases: Tensor
    values: Tensor
    queries: Tensor

    @classmethod
    def none(cls, size: tuple[int, int]) -> Neurons:
        """A side without neurons, for a weight of the shape ``size``."""
        empty = torch.zeros(0, size[0])
        return cls(size=size, keys=empty, biases=torch.zeros(0), values=empty, queries=empty)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight beside which the neurons stand."""
        return self.size

    @property
    def words(self) -> str:
        """A short description of the side."""
        return f"{len(self.keys)} more neurons"

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of the side, by name."""
        return {"keys": self.keys, "biases": self.biases, "values": self.values, "queries": self.queries}

    def said(self) -> dict[str, Any]:
        """The weight's shape."""
        return {"shape": list(self.size)}

    @classmethod
    def read(cls, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the side from the results of `said` and `tensors`.

        Raises:
            KeyError, TypeError, ValueError: the data and the tensors don't fit together.
        """
        rows, columns = said["shape"]
        found = cls(
            size=(int(rows), int(columns)),
            keys=tensors["keys"],
            biases=tensors["biases"],
            values=tensors["values"],
            queries=tensors["queries"],
        )
        wide = (len(found.keys), int(rows))
        shapes = [tuple(tensor.shape) for tensor in (found.keys, found.values, found.queries)]
        if shapes != [wide] * 3 or found.biases.shape != wide[:1]:
            raise ValueError(f"keys, values and queries are {shapes}, biases {tuple(found.biases.shape)}")
        return found

    def plus(self, later: Self) -> Self:
        """The neurons of both sides, this one's first.

        Raises:
            PatchError: the sides are for weights of different shapes.
        """
        if self.size != later.size:
            raise PatchError(f"can't add neurons for weights of the shapes {self.size} and {later.size}")
        return type(self)(
            size=self.size,
            keys=torch.cat([self.keys, later.keys]),
            biases=torch.cat([self.biases, later.biases]),
            values=torch.cat([self.values, later.values]),
            queries=torch.cat([self.queries, later.queries]),
        )

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, biases and values on a device."""
        return self.keys.to(device), self.biases.to(device), self.values.to(device)

    @contextmanager
    def attached(self, model: LanguageModel, name: str) -> Iterator[None]:
        """Within the ``with`` block, the output of these neurons is added to that of the MLP."""
        own = self.on(next(module_of(model, name, shape=self.shape).parameters()).device)

        def answer(inputs: Tensor, output: Tensor) -> Tensor:
            return output + fired(inputs, *own)

        with answering(model, layer_of(model, name), answer, reads="mlp"):
            yield


def fired(inputs: Tensor, keys: Tensor, biases: Tensor, values: Tensor) -> Tensor:
    """sum_i max(0, k_i . h + b_i) v_i for inputs [tokens, d]: [tokens, d]."""
    return torch.relu(inputs @ keys.T + biases) @ values
