"""T-Patcher's adapter: the last MLP gets one extra neuron for each mistake (Huang et al., ICLR 2023, arXiv 2301.09785).

With h [d] the MLP's input at a token, neurons with keys k_i [d], biases b_i and values v_i [d]:

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

from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import Adapter


@dataclass(frozen=True, eq=False, kw_only=True)
class Neurons(Adapter):
    """``keys`` [n, d], ``biases`` [n], ``values`` [n, d], for a down-projection of the shape ``size`` (d, d_ff).

    ``queries`` [n, d] are the MLP's inputs at the mistakes. Training keeps the neurons of later edits inactive there.
    """

    method: ClassVar[str] = "t-patcher"

    size: tuple[int, int]
    keys: Tensor
    biases: Tensor
    values: Tensor
    queries: Tensor

    @classmethod
    def none(cls, size: tuple[int, int]) -> Neurons:
        """Return an adapter without neurons, for a weight of the shape ``size``."""
        empty = torch.zeros(0, size[0])
        return cls(size=size, keys=empty, biases=torch.zeros(0), values=empty, queries=empty)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d, d_ff) of the adapted weight."""
        return self.size

    @property
    def summary(self) -> str:
        """The number of neurons."""
        return f"{len(self.keys)} more neurons"

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""
        return {"keys": self.keys, "biases": self.biases, "values": self.values, "queries": self.queries}

    def metadata(self) -> dict[str, Any]:
        """Return the weight's shape."""
        return {"shape": list(self.size)}

    @classmethod
    def read(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the adapter from the results of `metadata` and `tensors`."""
        rows, columns = map(int, metadata["shape"])
        parts = {name: tensors[name] for name in ("keys", "biases", "values", "queries")}
        shapes = {name: tuple(tensor.shape) for name, tensor in parts.items()}
        n = len(parts["keys"])
        expected = {"keys": (n, rows), "biases": (n,), "values": (n, rows), "queries": (n, rows)}
        if shapes != expected:
            raise ValueError(f"the neurons' tensors don't fit together or a width of {rows}: {shapes}")
        return cls(size=(rows, columns), **parts)

    def plus(self, later: Self) -> Self:
        """Return the neurons of both adapters, this one's first."""
        return type(self)(
            size=self.size,
            keys=torch.cat([self.keys, later.keys]),
            biases=torch.cat([self.biases, later.biases]),
            values=torch.cat([self.values, later.values]),
            queries=torch.cat([self.queries, later.queries]),
        )

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, biases and values on a device."""
        return self.keys.to(device), self.biases.to(device), self.values.to(device)

    @contextmanager
    def attached(self, model: LanguageModel, layer: int, device: torch.device) -> Iterator[None]:
        """Within the ``with`` block, the output of these neurons is added to that of the MLP."""
        neurons = self.on(device)
        with replace_output(model, layer, lambda h, output: output + fired(h, *neurons), reads="mlp"):
            yield


def fired(inputs: Tensor, keys: Tensor, biases: Tensor, values: Tensor) -> Tensor:
    """Return sum_i max(0, k_i . h + b_i) v_i, [tokens, d].

    Args:
        inputs: h, [tokens, d].
        keys: k, [n, d].
        biases: b, [n].
        values: v, [n, d].
    """
    return torch.relu(inputs @ keys.T + biases) @ values
