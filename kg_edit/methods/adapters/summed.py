"""Base class of sides whose parameters are trained further by each edit: initial parameters plus the sum of changes.

    parameter = start(settings, seed) + change of the first edit + change of the second + ...

The initial parameters follow from the settings. So a patch of later edits holds only their changes, and patches can be
added like patches of weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_hooks import Reads, answering
from kg_edit.patches.adapter_patch import Side, layer_of
from kg_edit.patches.weight_patch import module_of


class SideSettings(BaseModel):
    """Settings that determine the initial parameters and the output; only patches with equal settings can be added."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class SummedSide(Side):
    """A side with ``changes`` for each parameter, beside a weight of the shape ``size`` (out, in)."""

    settings_class: ClassVar[type[SideSettings]]
    reads: ClassVar[Reads] = "key"

    size: tuple[int, int]
    settings: SideSettings
    changes: Mapping[str, Tensor]

    @abstractmethod
    def start(self) -> dict[str, Tensor]:
        """The parameters before the first edit, float32 on the CPU."""

    @abstractmethod
    def answer(self, own: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False) -> Tensor:
        """The new output of the module, [tokens, out].

        Args:
            own: the parameters of the side.
            inputs: the inputs of the module or of the MLP (``reads``), after `seen`, [tokens, .].
            output: the module's own output, [tokens, out].
            training: whether to use the differentiable form, if the side has a different one for training.
        """

    @contextmanager
    def seen(self, model: LanguageModel, layer: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function from the inputs to what `answer` gets as inputs; by default the identity."""
        yield lambda inputs: inputs

    @classmethod
    def empty(cls, size: tuple[int, int], settings: SideSettings) -> Self:
        """The side before the first edit, with changes of 0."""
        bare = cls(size=size, settings=settings, changes={})
        return replace(bare, changes={name: torch.zeros_like(found) for name, found in bare.start().items()})

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight beside which the side stands."""
        return self.size

    def parameters(self, device: torch.device) -> dict[str, Tensor]:
        """The parameters after all edits, on ``device``."""
        return {name: (found + self.changes[name].float()).to(device) for name, found in self.start().items()}

    def tensors(self) -> Mapping[str, Tensor]:
        """The changes by parameter."""
        return self.changes

    def said(self) -> dict[str, Any]:
        """The shape and the settings, as JSON."""
        return {"shape": list(self.size), "settings": self.settings.model_dump(mode="json")}

    @classmethod
    def read(cls, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the side from the results of `said` and `tensors`.

        Raises:
            KeyError, TypeError, ValueError: the data and the tensors don't fit together.
        """
        rows, columns = said["shape"]
        found = cls(
            size=(int(rows), int(columns)),
            settings=cls.settings_class.model_validate(said["settings"]),
            changes=dict(tensors),
        )
        wanted = {name: tuple(tensor.shape) for name, tensor in found.start().items()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wanted != given:
            raise ValueError(f"its settings ask for tensors {wanted}, and it has {given}")
        return found

    def plus(self, later: Self) -> Self:
        """The sum of the changes of both sides.

        Raises:
            PatchError: the sides have different settings.
        """
        if self.settings != later.settings or self.size != later.size:
            raise PatchError(
                f"can't add what two methods with different settings trained ({self.settings!r} and "
                f"{later.settings!r}); make both with the same settings"
            )
        changes = {name: own + later.changes[name].to(own.device) for name, own in self.changes.items()}
        return replace(self, changes=changes)

    @contextmanager
    def attached(self, model: LanguageModel, name: str) -> Iterator[None]:
        """Within the ``with`` block, `answer` replaces the module's output."""
        own = self.parameters(next(module_of(model, name, shape=self.shape).parameters()).device)

        with self.seen(model, layer_of(model, name)) as seen:

            def answer(inputs: Tensor, output: Tensor) -> Tensor:
                return self.answer(own, seen(inputs), output)

            with answering(model, layer_of(model, name), answer, reads=self.reads):
                yield


def linear_start(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    """The usual random initialisation of a linear layer's weight [rows, columns]: uniform within 1 / sqrt(columns)."""
    bound = columns**-0.5
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=draw)
