"""AlphaEdit (Fang et al., ICLR 2025, arXiv 2410.02355): MEMIT's spread, with updates in the null space of C."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.locate_then_edit.held import HeldKeys
from kg_edit.locate_then_edit.joint import NullSpace, joint_directions, null_space
from kg_edit.methods.memit.base import JointMethod, SpreadConfig
from kg_edit.methods.workload import Workload


class AlphaEditConfig(SpreadConfig):
    """AlphaEdit's settings. The preset ``paper`` has those of the published code for GPT-2 XL, except the layers.

    If C has no eigenvalues near 0, it has no null space in the strict sense. By default the edits then use the
    directions with an eigenvalue below the mean. On SmolLM2-135M these are 70 to 80 % of the directions, with about a
    third of the keys' energy; the published absolute threshold leaves about as many.
    """

    threshold: float = Field(1.0, gt=0, description="eigenvectors of C with eigenvalues below this are free for edits")
    relative: bool = Field(True, description="threshold is a multiple of the mean eigenvalue of C; published: absolute")
    ridge: float = Field(
        1.0, gt=0, description="L2 term, added to the diagonal of the keys' second moment; published: 10"
    )
    hold: float = Field(
        0.0,
        ge=0,
        exclude_if=lambda hold: not hold,
        description="weight of the keys of the prompts' other tokens; a new key has 1",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": SpreadConfig.default,
        "fast": SpreadConfig.fast,
        "paper": {"threshold": 0.02, "relative": False, "ridge": 10.0},
    }

    def idle(self) -> dict[str, str]:
        """The ridge of C too, which only its inverse needs."""
        why = "AlphaEdit reads the eigenvectors of C, which a ridge does not change"
        return {**super().idle(), "covariance.ridge": why}

    def workload(self, *, edits: int) -> Workload:
        """The workload of a joint method, plus the eigenvectors of C for the null space."""
        return replace(super().workload(edits=edits), eigenvectors=True)


class AlphaEdit(JointMethod):
    """MEMIT without C in the least squares: the update stays in C's null space, and away from earlier edits' keys.

    The keys of earlier batches are stored only in the state of the patch that is applied to the model.
    """

    name = "alphaedit"
    paper = "Fang et al., ICLR 2025, arXiv 2410.02355"
    about = "mass editing in the null space of other knowledge, batch after batch"
    keeps_keys = True
    config_class = AlphaEditConfig
    config: AlphaEditConfig

    @cached_property
    def _null_spaces(self) -> dict[int, NullSpace]:
        return {}

    def null_space(self, layer: int) -> NullSpace:
        """P, the projection onto the free directions of the keys of ``layer``; computed once per layer."""
        if layer not in self._null_spaces:
            self._null_spaces[layer] = null_space(
                self.covariances[layer], threshold=self.config.threshold, relative=self.config.relative
            )
        return self._null_spaces[layer]

    def directions(self, layer: int, keys: Tensor, held: HeldKeys, protected: Tensor | None) -> Tensor:
        """(P (K_p K_p^T + hold H + K K^T) + ridge I)^-1 P K, with the keys K_p of earlier batches."""
        earlier = keys[:, :0] if protected is None else protected.to(keys)
        rows = self.config.hold**0.5 * held.rows.to(keys)
        known = torch.cat([keys, earlier, rows.T], 1)
        solved = self._within(layer, known, held.moment)
        return joint_directions(known, solved, weight=self.config.ridge, first=keys.shape[1])

    def _within(self, layer: int, keys: Tensor, moment: Tensor | None) -> Tensor:
        """(I + hold P H / ridge)^-1 P K for H = ``moment``: P K, reduced along the keys of other tokens."""
        space = self.null_space(layer)
        projected = space.project(keys)
        if moment is None:
            return projected
        system = self.config.hold / self.config.ridge * space.project(moment.to(keys))
        system.diagonal().add_(1.0)
        solved: Tensor = torch.linalg.solve(system, projected)
        return solved
