"""MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229): many facts at once, with a share of the change in each layer."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.locate_then_edit.held import HeldKeys
from kg_edit.locate_then_edit.joint import joint_directions
from kg_edit.methods.memit.base import JointMethod, SpreadConfig


class MemitConfig(SpreadConfig):
    """MEMIT's settings. The preset ``paper`` has those of the published code for GPT-2 XL, except the layers.

    For keys like those that C was measured from, k C^-1 k is d_ff on average. The default lambda = d_ff / 10 therefore
    lets a layer write most of its share under such a key, in a model of any size. The published number would be too
    strong for a small model.
    """

    mom2_weight: float | None = Field(
        None,
        gt=0,
        description="lambda, the weight of C; a new key has 1; default d_ff / 10 (published: 15000, 20000)",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": SpreadConfig.default,
        "fast": SpreadConfig.fast,
        "paper": {"mom2_weight": 20_000.0},
    }


class Memit(JointMethod):
    """Least squares over new and old keys in every layer."""

    name = "memit"
    paper = "Meng et al., ICLR 2023, arXiv 2210.07229"
    about = "mass editing: a batch of facts, spread over several layers"
    config_class = MemitConfig
    config: MemitConfig

    def directions(self, layer: int, keys: Tensor, held: HeldKeys, protected: Tensor | None) -> Tensor:
        """(lambda C + K_p K_p^T + K K^T)^-1 K, [d_ff, facts] (MEMIT, Eq. 14); MEMIT keeps no earlier keys K_p."""
        weight = self.config.mom2_weight or len(keys) / 10
        known = keys if protected is None else torch.cat([keys, protected.to(keys)], 1)
        return joint_directions(known, self.solved(layer, known, held), weight=weight, first=keys.shape[1])
