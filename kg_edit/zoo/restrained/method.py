"""ROME, MEMIT and EMMET with restrained updates: SPHERE, RECT and PRUNE (`kg_edit.zoo.restrained.bounds`).

For an update D = R U^T of a weight W [d, d_ff], with R [d, facts] and U [d_ff, facts], each setting bounds D:

    sphere   D (I - sphere V V^T), so U becomes (I - sphere V V^T) U,   V [d_ff, directions] the main directions of W
    rect     only the share ``rect`` of D's elements that have the largest |D / W| is written; the others are 0
    prune    each singular value sigma of all updates together that exceeds s, the largest one of the unedited W,
             becomes min(sigma, s + log_prune(sigma / s))

`Restrained` overrides the two methods through which an update goes before it is in the patch. `adjust_directions` gets
the right factor U [d_ff, facts] of one layer's update R U^T, before the next layer is computed. `adjust_updates` gets
the updates of all layers. Another method is restrained in the same way: ``class RestrainedPmet(Restrained, Pmet)``.

The public code of SPHERE projects all updates after the last layer. Here each is projected before the next layer is
computed. PRUNE's public code bounds the updates once, after all edits. Here it is done after each batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, cast

from pydantic import Field, field_validator
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.methods.config import MethodConfig, Workload
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.methods.value_method import ValueMethod
from kg_edit.models.language_model import weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch, module_of
from kg_edit.zoo.emmet.method import Emmet, EmmetConfig
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.restrained.bounds import find_principal_directions, keep_most_changed, prune, remove_principal


class RestrainedConfig(MethodConfig):
    """The bounds on the updates of a method that finds values by descent, each of which is off by default."""

    sphere: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of an update along the weight's main directions that is removed; 0: off; published: 0.8",
    )
    rect: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of an update's elements that is written: those that change their weight most; 0: off (all); "
        "published: 0.4",
    )
    prune: float = Field(
        0.0,
        ge=0,
        description="base of the logarithm that bounds the singular values of all updates together by the weight's; "
        "0: off; published: 1.2",
    )

    @field_validator("prune")
    @classmethod
    def _refuse_no_base(cls, base: float) -> float:
        if 0 < base <= 1:
            raise ValueError(f"found {base:g}; expected a base of a logarithm, larger than 1, or 0 for off")
        return base

    def workload(self, *, edits: int) -> Workload:
        """Return the cost of the method itself; with ``rect`` the patch has whole matrices."""
        return replace(super().workload(edits=edits), dense=self.rect > 0)


class Restrained(ValueMethod):
    """A method whose updates are restrained; it stands before the method in the bases of a class."""

    @property
    def bounds(self) -> RestrainedConfig:
        """The bounds, which are among the method's settings."""
        return cast(RestrainedConfig, self.config)

    def find_directions(self, layer: int) -> Tensor:
        """Return V [d_ff, directions], the principal directions of the present weight of ``layer``."""
        return find_principal_directions(weight_matrix(self.model.down_projection(layer)).detach())

    def adjust_directions(self, layer: int, right: Tensor) -> Tensor:
        """Return (I - sphere V V^T) U for the right factor U [d_ff, facts] of the layer's update."""
        if not self.bounds.sphere:
            return right
        return remove_principal(self.find_directions(layer), right, strength=self.bounds.sphere)

    def adjust_updates(self, updates: Mapping[str, Factors], before: Patch | None) -> dict[str, Factors]:
        """Return the updates of a batch, restrained as ``rect`` and ``prune`` set.

        As in the public code, all layers were solved with the whole updates. MEMIT's records have the norms before.

        Args:
            updates: the updates, by the weights' names.
            before: the patch of the earlier edits, which is applied to the model.
        """
        adjusted = dict(updates)
        for name, update in updates.items():
            weight = weight_matrix(module_of(self.model, name, shape=update.shape)).detach()
            if self.bounds.rect:
                adjusted[name] = keep_most_changed(update, weight, share=self.bounds.rect)
            if self.bounds.prune:
                earlier = updates_of(name, before)
                adjusted[name] = prune(adjusted[name], weight, earlier=earlier, base=self.bounds.prune)
        return adjusted


def updates_of(name: str, patch: Patch | None) -> list[Factors]:
    """Return the updates of the weight ``name`` in ``patch``, which may be a stack of patches."""
    if patch is None:
        return []
    updates = list[Factors]()
    for part in patch.parts:
        if isinstance(part, WeightPatch) and name in part.factors:
            updates.append(part.factors[name])
    return updates


class RestrainedRomeConfig(RestrainedConfig, RomeConfig):
    """ROME's settings, and the bounds."""

    published_as: ClassVar[str | None] = "rome"


class RestrainedRome(Restrained, Rome):
    """ROME with restrained updates. The output for the edit's key is no longer exactly m*.

    The edits of one call all change the same weight, and the model has it unchanged until the call ends. So V is found
    once for the call: `make_each` keeps it in ``_shared_directions``, and `find_directions` takes it from there.
    """

    entry = method_entry("restrained-rome")
    config_class = RestrainedRomeConfig
    config: RestrainedRomeConfig
    _shared_directions: Tensor | None = None

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Make each edit as ROME does, all with the same V."""
        if self.config.sphere:
            self._shared_directions = self.find_directions(self.layer)
        try:
            return super().make_each(edits, before=before)
        finally:
            self._shared_directions = None

    def find_directions(self, layer: int) -> Tensor:
        """Return V [d_ff, directions], that of the present call if there is one."""
        if self._shared_directions is not None:
            return self._shared_directions
        return super().find_directions(layer)


class RestrainedMemitConfig(RestrainedConfig, MemitConfig):
    """MEMIT's settings, and the bounds."""

    published_as: ClassVar[str | None] = "memit"


class RestrainedMemit(Restrained, Memit):
    """MEMIT with restrained updates."""

    entry = method_entry("restrained-memit")
    config_class = RestrainedMemitConfig
    config: RestrainedMemitConfig


class RestrainedEmmetConfig(RestrainedConfig, EmmetConfig):
    """EMMET's settings, and the bounds."""

    published_as: ClassVar[str | None] = "emmet"


class RestrainedEmmet(Restrained, Emmet):
    """EMMET with restrained updates. The outputs for the facts' keys are no longer exact."""

    entry = method_entry("restrained-emmet")
    config_class = RestrainedEmmetConfig
    config: RestrainedEmmetConfig
