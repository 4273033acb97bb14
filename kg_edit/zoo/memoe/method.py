"""MEMoE (Wang and Li 2024, arXiv 2405.19086): experts are added to one frozen layer, chosen by the names in a text.

The router and the experts are trained on all edits of a call together. A later call continues from the result.
`memoe.adapter` has the equations; `Memoe.routes` returns which expert is used for a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt

from kg_edit.engine.replay import block_output
from kg_edit.methods.config import Workload
from kg_edit.models.prompts import left_pad
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import adapter_at
from kg_edit.patches.base import Patch
from kg_edit.zoo.adapters.base import AdapterConfig
from kg_edit.zoo.adapters.summed import SummedMethod
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.memoe.adapter import Experts, ExpertSettings


class MemoeConfig(ExpertSettings, AdapterConfig):
    """Settings of the experts and their training."""

    steps: PositiveInt = Field(
        50, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam, for the router and the experts")

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: all edits are trained together."""
        return Workload(rows=edits)


class Memoe(SummedMethod):
    """A mixture of experts is added to one frozen layer; the names in a text decide which expert is used."""

    entry = method_entry("memoe")
    adapter_class = Experts
    config_class = MemoeConfig
    config: MemoeConfig

    @torch.no_grad()
    def routes(self, patch: Patch, texts: Sequence[str]) -> list[int]:
        """Return the expert with the largest gate at the last token of each text, by the adapter in ``patch``."""
        adapter = adapter_at(patch, self.place)
        assert isinstance(adapter, Experts)  # noqa: S101 - a patch of this method
        parameters = adapter.parameters(self.device)
        gates = list[torch.Tensor]()
        with adapter.preparing_inputs(self.model, self.layer) as prepare:

            def look(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
                gates.append(adapter.compute_gates(parameters, prepare(inputs)))
                return output

            with replace_output(self.model, self.layer, look, reads=adapter.reads):
                for text in texts:
                    row = left_pad([self.model.encode(text).ids], device=self.model.device)
                    block_output(self.model, row, self.layer)
        return [int(gate[-1].argmax()) for gate in gates]
