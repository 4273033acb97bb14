"""MEMoE (Wang and Li 2024, arXiv 2405.19086): experts beside one frozen layer, chosen by the names in a text.

The router and the experts are trained on all edits of a call together. A later call continues from the result.
`kg_edit.methods.memoe.experts` has the equations; `Memoe.routes` tells which expert is used for a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, PositiveInt, model_validator

from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.methods.adapters.base import BesideConfig
from kg_edit.methods.adapters.summed_method import SummedMethod
from kg_edit.methods.memoe.experts import Experts, ExpertSettings
from kg_edit.models.prompts import left_pad
from kg_edit.models.replay import block_output
from kg_edit.patches.adapter_hooks import answering
from kg_edit.patches.adapter_patch import side_of
from kg_edit.patches.base import Patch
from kg_edit.storage.seeds import Seed


class MemoeConfig(BesideConfig):
    """Settings of the experts."""

    steps: PositiveInt = Field(
        50, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam, for the router and the experts")
    experts: PositiveInt = Field(4, description="E: number of experts")
    top: PositiveInt = Field(1, description="k: number of experts that are used for a token")
    scale: float = Field(1.0, gt=0, description="lambda: weight of the experts' output")
    anchors: bool = Field(
        True, description="the router reads the names so far as well as the token; false: only the token"
    )
    seed: Seed = Field(0, description="random seed of the router's initial weights")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.top > self.experts:
            raise ValueError(f"top={self.top} is more than the {self.experts} experts; give a smaller top")
        return self


class Memoe(SummedMethod):
    """A mixture of experts beside one frozen layer; the names in a text decide which expert is used."""

    name = "memoe"
    paper = "Wang and Li 2024, arXiv 2405.19086"
    about = "experts beside one frozen layer, routed by the names in a text, trained on a batch"
    joint = True
    side_kind = Experts.kind
    side_class = Experts
    config_class = MemoeConfig
    config: MemoeConfig

    def side_settings(self) -> ExpertSettings:
        """The settings of the side: the number of experts, the routing, the seed."""
        config = self.config
        return ExpertSettings(
            experts=config.experts, top=config.top, scale=config.scale, anchors=config.anchors, seed=config.seed
        )

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train on all edits together.

        Raises:
            EditError: two of the edits have the same prompt and different targets.
        """
        refuse_clash(edits)
        return super().make(edits, before=before)

    @torch.no_grad()
    def routes(self, patch: Patch, texts: Sequence[str]) -> list[int]:
        """The expert with the largest gate at the last token of each text, by the side in ``patch``."""
        side = side_of(patch, self._place)
        assert isinstance(side, Experts)  # noqa: S101 - a patch of this method
        own, found = side.parameters(next(self.module.parameters()).device), list[int]()
        for text in texts:
            with side.seen(self.model, self.layer) as seen:
                gates: list[torch.Tensor] = []

                def look(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
                    gates.append(side.gates(own, seen(inputs)))  # noqa: B023 - called within the turn
                    return output

                with answering(self.model, self.layer, look, reads=side.reads):
                    block_output(
                        self.model, left_pad([self.model.encode(text).ids], device=self.model.device), self.layer
                    )
                found.append(int(gates[0][-1].argmax()))
        return found
