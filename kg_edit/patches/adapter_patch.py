"""Patches of sides. A side is an extra module beside a weight that changes its output: a memory, a gate, neurons.

- `Side`: the base class of sides; each kind is a subclass.
- `SidePatch`: the sides by kind, and by the name of the weight beside which they stand. No weight changes. The sides
  act in their order; a side that later edits train further moves to the end, where it was trained.

The sides of later edits are trained on the model with the earlier ones. So to take an edit out, the edits after it have
to be computed again (`kg_edit.ledger`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, PatchStack, joined
from kg_edit.patches.container import SIDE, PatchFile, write_patch
from kg_edit.patches.weight_patch import module_of

_SAID = "sides"
_KINDS = {
    "calinet": "kg_edit.methods.calinet.adapter:ExtraNetwork",
    "comeba": "kg_edit.methods.comeba.adapter:GatedUpdate",
    "defer": "kg_edit.methods.defer.adapter:DeferringGate",
    "memoe": "kg_edit.methods.memoe.experts:Experts",
    "memoir": "kg_edit.methods.memoir.adapter:ResidualMemory",
    "memory": "kg_edit.methods.memory.adapter:MemoryNetwork",
    "t-patcher": "kg_edit.methods.t_patcher.adapter:Neurons",
}
Place = tuple[str, str]
"""A side's kind, and the name of the weight beside which it stands."""


class Side(ABC):
    """Base class of an extra module beside the module of one weight [out, in]; its tensors are float32, on the CPU."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight beside which the side stands."""

    @property
    @abstractmethod
    def words(self) -> str:
        """A short description of the side, such as its number of entries."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of the side, by name."""

    @abstractmethod
    def said(self) -> dict[str, Any]:
        """The data of the side that are not tensors, as JSON."""

    @classmethod
    @abstractmethod
    def read(cls, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the side from the results of `said` and `tensors`.

        Raises:
            KeyError, TypeError, ValueError: the data and the tensors don't fit together.
        """

    @abstractmethod
    def plus(self, later: Self) -> Self:
        """The sum of this side and a side of ``later`` edits.

        Raises:
            PatchError: the sides have different settings.
        """

    @abstractmethod
    def attached(self, model: LanguageModel, name: str) -> AbstractContextManager[None]:
        """Within the ``with`` block, the side acts on the module of the weight ``name``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SidePatch(Patch):
    """Sides by kind and weight, in the order in which they act.

    Adding patches adds the sides of the same place; each kind defines its sum.
    """

    kind: ClassVar[Kind] = "adapter"

    sides: Mapping[Place, Side]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The weights, with a short description of the side beside each."""
        return ", ".join(f"{name}: {side.words}" for (_, name), side in self.sides.items())

    @property
    def nbytes(self) -> int:
        """The bytes of the sides' tensors."""
        return sum(tensor.nbytes for side in self.sides.values() for tensor in side.tensors().values())

    @property
    def is_empty(self) -> bool:
        """Whether there is no side."""
        return not self.sides

    def meets(self, later: SidePatch) -> bool:
        """Whether both have a side at one place."""
        return not self.sides.keys().isdisjoint(later.sides)

    def _plus(self, other: SidePatch) -> SidePatch:
        """The sides of both patches; sides of the same place are added, and stand where those of ``other`` stand.

        Raises:
            PatchError: two sides of the same place have different settings.
        """
        sides = dict(self.sides)
        for place, more in other.sides.items():
            sides[place] = sides.pop(place).plus(more) if place in sides else more
        return SidePatch(sides=sides, provenance=joined(self.provenance, other.provenance))

    @contextmanager
    def stacked_on(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """The model with every side attached; no weight changes."""
        self.check_model(model)
        for (_, name), side in self.sides.items():
            module_of(model, name, shape=side.shape)
        with ExitStack() as stack:
            for (_, name), side in self.sides.items():
                stack.enter_context(side.attached(model, name))
            yield model

    def check_finite(self) -> None:
        """Check that every number is finite.

        Raises:
            PatchError: a number is not finite.
        """
        for (_, name), side in self.sides.items():
            if not all(torch.isfinite(tensor).all() for tensor in side.tensors().values()):
                raise PatchError(f"the module beside {name} is not finite; make a smaller change, or edit in float32")

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors; provenance and settings in its metadata) atomically.

        Raises:
            PatchError: a value is not finite.
            OutputError: the file can't be written.
        """
        tensors: dict[str, Tensor] = {}
        said: list[tuple[str, str, dict[str, Any]]] = []
        for (kind, name), side in self.sides.items():
            tensors |= {f"{kind}/{name}/{own}": tensor for own, tensor in side.tensors().items()}
            said.append((kind, name, side.said()))
        return write_patch(path, format=SIDE, provenance={**self.provenance, _SAID: said}, tensors=tensors)

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """The patch in a file.

        Raises:
            PatchError: its parts don't fit together.
        """
        provenance = dict(file.provenance)
        said = provenance.pop(_SAID, None)
        try:
            sides = {
                (kind, name): _class(kind).read(own, _under(f"{kind}/{name}/", file.tensors))
                for kind, name, own in _in_order(said)
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PatchError(f"the patch {file.path} is damaged: {error!r}; make the patch again") from error
        return cls(sides=sides, provenance=provenance)


def _in_order(said: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The kind, weight and data of each side. Files of versions before 2026-11 have them by kind, in no order."""
    if isinstance(said, Mapping):
        yield from ((kind, name, own) for kind, names in said.items() for name, own in names.items())
    else:
        yield from ((kind, name, own) for kind, name, own in said)


def side_of(patch: Patch, place: Place) -> Side | None:
    """The side at ``place`` in a patch or in the parts of a stack; None if there is none."""
    parts = patch.patches if isinstance(patch, PatchStack) else (patch,)
    found = (part.sides.get(place) for part in parts if isinstance(part, SidePatch))
    return next((side for side in found if side is not None), None)


def without_side(patch: Patch, place: Place) -> Patch | None:
    """A patch or stack without the side at ``place``; None if nothing is left."""
    parts = patch.patches if isinstance(patch, PatchStack) else (patch,)
    kept = [_left(part, place) if isinstance(part, SidePatch) else part for part in parts]
    kept = [part for part in kept if not part.is_empty]
    return PatchStack.of(*kept) if kept else None


def layer_of(model: LanguageModel, name: str) -> int:
    """The index (0-based) of the block that contains the weight ``name``."""
    return int(name.removeprefix(f"{model.spec.blocks}.").partition(".")[0])


def _left(patch: SidePatch, place: Place) -> SidePatch:
    sides = {own: side for own, side in patch.sides.items() if own != place}
    return SidePatch(sides=sides, provenance=patch.provenance)


def _class(kind: str) -> type[Side]:
    module, _, name = _KINDS[kind].partition(":")
    found: type[Side] = getattr(import_module(module), name)
    return found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
