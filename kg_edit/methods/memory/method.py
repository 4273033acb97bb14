"""Memory: a memory network replaces one layer's output; a baseline of GRACE (Hartvigsen et al., NeurIPS 2023).

Adam trains the slots on each edit in turn. `kg_edit.methods.memory.adapter` has the equation.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from kg_edit.methods.adapters.base import BesideConfig
from kg_edit.methods.adapters.summed_method import SummedMethod
from kg_edit.methods.memory.adapter import MemoryNetwork, MemorySettings
from kg_edit.storage.seeds import Seed


class MemoryConfig(BesideConfig):
    """Settings of the memory network. The preset ``paper`` has those of the published program."""

    steps: PositiveInt = Field(
        100, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(0.1, gt=0, description="learning rate of Adam")
    slots: PositiveInt = Field(100, description="number of slots; each has a key and a value")
    frozen_values: bool = Field(False, description="train only the keys and biases; the values stay random")
    seed: Seed = Field(0, description="random seed of the initial keys, biases and values")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"steps": 101, "stop_below": 0.0},
    }


class Memory(SummedMethod):
    """Attention over a fixed number of slots replaces the layer's output for every text.

    This baseline shows the effect of a codebook without radii.
    """

    name = "memory"
    paper = "Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031 (a baseline)"
    about = "attention over slots replaces one layer's output, for every text: a baseline of GRACE"
    side_kind = MemoryNetwork.kind
    side_class = MemoryNetwork
    config_class = MemoryConfig
    config: MemoryConfig

    def side_settings(self) -> MemorySettings:
        """The settings of the side: the number of slots and the seed."""
        return MemorySettings(slots=self.config.slots, seed=self.config.seed)

    def learned(self) -> frozenset[str] | None:
        """The trained parameters: all (None), or only keys and biases if the values are frozen."""
        return frozenset({"keys", "bias"}) if self.config.frozen_values else None
