"""Patches of adapters: extra modules that change the output of one linear module, such as a memory, a gate, neurons.

- `Adapter`: the base class; each method of this kind has a subclass.
- `AdapterPatch`: adapters by method and by the name of the adapted weight. No weight changes. The adapters act in their
  order; an adapter that later edits train further moves to the end, where it was trained.

Later edits are trained on the model with the earlier adapters. So to remove an edit, the edits after it have to be
computed again (`kg_edit.ship.ledger`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kg_edit.errors import ConfigError, PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches import join_provenances
from kg_edit.patches.base import ChangedPart, Patch, PatchStack
from kg_edit.patches.container import PatchFile
from kg_edit.patches.weight_patch import module_of
from kg_edit.registry import load, method_entries

Place = tuple[str, str]
"""The name of the method that made an adapter, and the name of the adapted weight."""


class Adapter(ABC):
    """Base class of an extra module at one weight [out, in]; its tensors are float32, on the CPU.

    Attributes:
        method: the name of the method whose ``adapter_class`` it is; a file names it, and the loader finds the class.
    """

    method: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the adapted weight."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """A short description, such as the number of entries."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Return everything that is not a tensor, as JSON."""

    @classmethod
    @abstractmethod
    def read(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the adapter from the results of `metadata` and `tensors`."""

    @abstractmethod
    def plus(self, later: Self) -> Self:
        """Return the sum of this adapter and that of ``later`` edits."""

    @abstractmethod
    def attached(self, model: LanguageModel, layer: int, device: torch.device) -> AbstractContextManager[None]:
        """Within the ``with`` block, the adapter acts on the down-projection of block ``layer``, on ``device``."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AdapterPatch(Patch):
    """Adapters by method and weight, in the order in which they act.

    Adding patches adds the adapters of the same place; each adapter class defines its sum.
    """

    changed_part: ClassVar[ChangedPart] = "adapter"
    file_kind: ClassVar[str] = "adapters"

    adapters: Mapping[Place, Adapter]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The adapted weights, with a short description of each adapter."""
        return ", ".join(f"{name}: {adapter.summary}" for (_, name), adapter in self.adapters.items())

    @property
    def nbytes(self) -> int:
        """The bytes of the adapters' tensors."""
        total = 0
        for adapter in self.adapters.values():
            total += sum(tensor.nbytes for tensor in adapter.tensors().values())
        return total

    @property
    def is_empty(self) -> bool:
        """Whether there is no adapter."""
        return not self.adapters

    def meets(self, later: AdapterPatch) -> bool:
        """Return whether both have an adapter at one place."""
        return not self.adapters.keys().isdisjoint(later.adapters)

    def _plus(self, other: AdapterPatch) -> AdapterPatch:
        adapters = dict(self.adapters)
        for place, adapter in other.adapters.items():
            # A sum acts where its later part does, because that part was trained on the output of the others.
            earlier = adapters.pop(place, None)
            adapters[place] = adapter if earlier is None else earlier.plus(adapter)
        return AdapterPatch(adapters=adapters, provenance=join_provenances(self.provenance, other.provenance))

    @contextmanager
    def applied_on_top(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Attach every adapter to the model within the ``with`` block; no weight changes."""
        self.check_model(model)
        adapted = list[tuple[Adapter, str, nn.Module]]()  # all are found before the first one is attached
        for (_, name), adapter in self.adapters.items():
            adapted.append((adapter, name, module_of(model, name, shape=adapter.shape)))
        with ExitStack() as stack:
            for adapter, name, module in adapted:
                device = next(module.parameters()).device
                stack.enter_context(adapter.attached(model, layer_of(model, name), device))
            yield model

    def check_finite(self) -> None:
        """Check that every number is finite."""
        for (_, name), adapter in self.adapters.items():
            for tensor in adapter.tensors().values():
                if not torch.isfinite(tensor).all():
                    raise PatchError(f"the adapter of {name} is not finite; make a smaller change, or edit in float32")

    def _stored(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        content = list[dict[str, Any]]()
        tensors = dict[str, Tensor]()
        for (method, name), adapter in self.adapters.items():
            content.append({"method": method, "weight": name, "adapter": adapter.metadata()})
            for key, tensor in adapter.tensors().items():
                tensors[f"{method}/{name}/{key}"] = tensor
        return content, tensors

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """Build the patch of a file."""
        adapters: dict[Place, Adapter] = {}
        try:
            for entry in file.content:
                method = entry["method"]
                name = entry["weight"]
                prefix = f"{method}/{name}/"
                tensors = dict[str, Tensor]()
                for key, tensor in file.tensors.items():
                    if key.startswith(prefix):
                        tensors[key.removeprefix(prefix)] = tensor
                adapters[method, name] = _adapter_class(method).read(entry["adapter"], tensors)
        except (ArithmeticError, AttributeError, ConfigError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise PatchError(f"the patch {file.path} is damaged: {error!r}; make the patch again") from error
        return cls(adapters=adapters, provenance=file.provenance)


def _adapter_class(method: str) -> Any:
    """Return the class of the adapters of a method."""
    entry = method_entries().get(method)
    if entry is None:
        raise PatchError(f"no method {method!r} is installed, and the patch was made by it; install its package")
    return load(entry.target).adapter_class


def adapter_at(patch: Patch, place: Place) -> Adapter | None:
    """Return the adapter at ``place`` in a patch or in the parts of a stack; None if there is none."""
    for part in patch.parts:
        if isinstance(part, AdapterPatch) and place in part.adapters:
            return part.adapters[place]
    return None


def without_adapter(patch: Patch, place: Place) -> Patch | None:
    """Return a patch or stack without the adapter at ``place``; None if nothing is left."""
    remaining = list[Patch]()
    for part in patch.parts:
        rest = part
        if isinstance(part, AdapterPatch):
            others = {key: adapter for key, adapter in part.adapters.items() if key != place}
            rest = replace(part, adapters=others)
        if not rest.is_empty:
            remaining.append(rest)
    if not remaining:
        return None
    return PatchStack.of(*remaining)


def layer_of(model: LanguageModel, name: str) -> int:
    """Return the index (0-based) of the block that contains a weight: 3 for "model.layers.3.mlp.down_proj.weight"."""
    return int(name.removeprefix(f"{model.spec.blocks}.").partition(".")[0])
