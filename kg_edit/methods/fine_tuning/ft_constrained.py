"""Constrained fine-tuning (Zhu et al., 2020, arXiv 2012.00363): |W - W*|_inf <= radius, W* the unedited weight.

After each step of Adam, the weight is projected onto this ball: each number is clamped on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.methods.entries import method_entry
from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig, sum_changes
from kg_edit.patches.base import Patch


class FtConstrainedConfig(FineTuningConfig):
    """Settings of constrained fine-tuning. The preset ``paper`` has those of ROME's FT+L for GPT-2 XL.

    It has one more evaluation of the loss, because here no step follows the last one.
    """

    radius: float = Field(4e-3, gt=0, description="maximum change of a single weight; published: 5e-4")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"layer": 0, "steps": 26, "aim": "prompt_last", "radius": 5e-4}
    }


class FtConstrained(FineTuning):
    """After each step, the weights are projected onto the L-infinity ball around the unedited weights.

    The ball is the same for all edits of a sequence. Weights that other methods moved out of it may only move back.
    """

    entry = method_entry("ft-constrained")
    config_class = FtConstrainedConfig
    config: FtConstrainedConfig

    def constraint(self, change: Tensor, before: Patch) -> Callable[[], None]:
        """Return a function that clamps the sum of the change [d, d_ff] and earlier changes to the ball."""
        moved = sum_changes(before, self.model.weight_name(self.layer), like=change)
        # -radius <= moved + change <= radius; where ``moved`` is outside already, the bound is 0: no further out.
        low = (-self.config.radius - moved).clamp(max=0)
        high = (self.config.radius - moved).clamp(min=0)

        @torch.no_grad()
        def clamp() -> None:
            change.clamp_(low, high)

        return clamp
