"""The run whose memory is estimated, and the parts that its memory is made of.

d is the width, d_ff the inner width of an MLP, V the vocabulary, l the edited block. What an edit needs is declared by
the method's settings (`Workload`); three of its numbers are easily mixed up:

- ``rows``: the rows of one fact, which one evaluation of the loss runs
- ``facts``: the facts of one edit
- ``together``: the edits that run in the same passes, although each is written alone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.methods.config import Workload
from kg_edit.methods.memit.joint_config import choose_one_layer
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.planning.machine import Machine
from kg_edit.planning.shape import ModelShape

FLOAT32 = 4
FLOAT64 = 8
TRAINED = 4 * FLOAT32  # bytes of a trained number: itself, its gradient and Adam's two means, in float32
_BLOCK = 64  # weights of nf4 that share a scale, as bitsandbytes stores them

Phase = Literal["always", "measuring C", "comparing C", "factoring C", "editing", "checking"]
Memory = Literal["main memory", "accelerator"]
MEMORIES: tuple[Memory, ...] = ("main memory", "accelerator")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the memory that a job takes.

    Attributes:
        what: its purpose, as the table of `kg-edit plan` names it.
        bytes: its size.
        phase: when it is in memory.
        where: which memory it takes.
        formula: how ``bytes`` is calculated, as text.
        of_covariance: whether only methods that use the covariance C need it (`covariance_parts`).
    """

    what: str
    bytes: float
    phase: Phase
    where: Memory
    formula: str = ""
    of_covariance: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run to estimate: ``edits`` edits by a method with its settings, on a model of this shape and dtype.

    ``limit_bytes`` is the number of bytes that a pass may use besides the model (--memory). ``quantised`` is how the
    linear layers are stored: nf4, int8, or "" for the dtype.
    """

    method: type[EditingMethod]
    config: MethodConfig
    shape: ModelShape
    machine: Machine
    dtype: torch.dtype
    edits: int
    limit_bytes: float
    quantised: str = ""

    @property
    def model_bytes(self) -> float:
        """The bytes of the model's weights."""
        return count_model_bytes(self.shape, self.dtype, quantised=self.quantised)

    @property
    def number_bytes(self) -> int:
        """The bytes of one number of the model."""
        return torch.empty(0, dtype=self.dtype).element_size()

    @property
    def where(self) -> Memory:
        """The memory that holds the weights: main memory if the device is the CPU."""
        if self.machine.is_cpu:
            return "main memory"
        return "accelerator"

    @property
    def workload(self) -> Workload:
        """What the method's settings declare about one edit."""
        return self.config.workload(edits=self.edits)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are written, or to which the backward pass goes."""
        shape = self.shape
        # Behind a norm, the changes of several layers' MLPs don't add up to the change of the block's output.
        if issubclass(self.method, JointMethod) and self.method.site == "block" and not shape.adds_mlp:
            return choose_one_layer(self.config, shape.layers, name=shape.name, family=shape.family)
        return self.config.written_layers(shape.layers)

    @property
    def trained(self) -> float:
        """The number of values that an optimiser holds at once.

        Those of all facts of all edits if the method is joint, else of one descent at a time.
        """
        shape = self.shape
        workload = self.workload
        facts = 1
        if self.method.joint:
            facts = self.edits * workload.facts
        match self.method.trains:
            case "value":  # [d] a fact
                return float(shape.width * facts)
            case "graph network":  # one for each fact, as far as they fit into the limit; two matrices [d, d] a hop
                network = 2.0 * workload.hops * shape.width**2
                if not network:  # no hops, as in an ablation without the graph
                    return 0.0
                fitting = int(self.limit_bytes / (TRAINED * network))
                return network * max(1, min(facts, fitting))
            case "weight":  # [d, d_ff] in each layer
                return float(shape.width) * shape.inner * len(self.layers)
            case "all weights":
                return float(shape.block) * len(self.layers)
            case "adapters":  # a pair of factors for each changed matrix
                return 2.0 * len(self.layers) * workload.matrices * workload.rank * shape.width
            case "nothing":
                return 0.0


def count_model_bytes(shape: ModelShape, dtype: torch.dtype, *, quantised: str = "") -> float:
    """Return the bytes of a model, whose linear layers may be quantised.

        nf4:  1/2 + 4/64 a packed weight: two weights a byte, and a float32 scale for each 64
        int8: 1 a packed weight, and a float32 scale for each row

    Embeddings, norms, biases and the head stay in ``dtype``.
    """
    number_bytes = torch.empty(0, dtype=dtype).element_size()
    packed = {
        "": float(number_bytes * shape.packed),
        "nf4": shape.packed * (0.5 + FLOAT32 / _BLOCK),
        "int8": float(shape.packed + FLOAT32 * shape.packed_rows),
    }
    return packed[quantised] + float(number_bytes) * (shape.parameters - shape.packed)
