"""MELO (Yu et al., AAAI 2024, arXiv 2312.11795): each edit trains its own block of a LoRA, which its key selects.

The key is the down-projection's input at the last token of the edit's prompt. From this token on the block, A [r, d_ff]
and B [r, d], is added to the same module, and Adam trains it until the model predicts the target. `melo.blocks` has the
equations, and which prompts use which block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.methods.config import Workload
from kg_edit.methods.fine_tuning.base import record
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, row_of
from kg_edit.methods.statement import encode_statement
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import weight_matrix
from kg_edit.patches.adapter_hooks import replacing_output
from kg_edit.patches.base import Patch
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.base import AdapterConfig
from kg_edit.zoo.adapters.summed import linear_init
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.grace.codebook import Deferral
from kg_edit.zoo.grace.method import CodebookMethod
from kg_edit.zoo.melo.blocks import BlockPatch, Blocks


class MeloConfig(AdapterConfig):
    """MELO's settings. Steps and rank are those of the published program, for GPT-2 XL."""

    steps: PositiveInt = Field(
        50, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(1e-2, gt=0, description="learning rate of Adam, for the edit's block")
    rank: PositiveInt = Field(2, description="r: ranks of the LoRA in the block of an edit")
    seed: Seed = Field(0, description="random seed of A; B starts as 0")
    deferral: Deferral = Field(
        Deferral(expand="mean"), description="which inputs belong to a cluster: radius, expand, metric, lookup"
    )

    @field_validator("deferral", mode="before")
    @classmethod
    def _by_the_mean(cls, rule: object) -> object:
        return {"expand": "mean", **rule} if isinstance(rule, dict) else rule  # a part of the group, such as the radius

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: one descent on the edit's row, with a pair of factors of one matrix."""
        return Workload(rank=self.rank)


class Melo(CodebookMethod):
    """One entry per edit: a key, and a block of a LoRA that is added to the same down-projection.

    Blocks of other edits are not active during training, so each edit can be removed; earlier patches of weights are
    active. Prompts whose last token lies in the edit's cluster use the block, from this token on.
    """

    entry = method_entry("melo")
    trains = "adapters"
    patch_class = BlockPatch
    config_class = MeloConfig
    config: MeloConfig

    def row(self, edit: Edit) -> TrainingRow:
        """Return the training row of an edit: its prompt and its target."""
        return row_of(encode_statement(self.model, edit, method=self.name), "target")

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train the block of one edit."""
        (edit,) = edits
        with untouched(self.model):
            row = self.row(edit)
            end = row.prompt_end
            assert end is not None  # noqa: S101 - the row of a prompt

            # The block: A [r, d_ff] random, B [r, d] zero, so that B^T A x is 0 at first
            weight = weight_matrix(self.model.down_projection(self.layer))
            d, d_ff = weight.shape
            rank = self.config.rank
            draw = torch.Generator().manual_seed(self.config.seed)
            a = linear_init(rank, d_ff, draw).to(weight.device).requires_grad_()
            b = torch.zeros(rank, d, device=weight.device, requires_grad=True)
            key = list[Tensor]()  # the module's input at the prompt's last token, [d_ff]

            def forward(inputs: Tensor, output: Tensor) -> Tensor:
                key[:] = [inputs[end].detach()]
                edited = output[end:] + inputs[end:] @ a.T @ b
                return torch.cat([output[:end], edited])

            row_losses = RowLosses(self.model, self.layer, [row])
            with replacing_output(self.model, self.layer, forward):
                losses = self.config.descent.run([a, b], lambda: row_losses().mean())

        book = Blocks(
            keys=key[0][None].to(self.model.model.dtype).cpu(),  # its rounding shows which keys are the same
            values=torch.cat([a, b], dim=1).detach()[None].cpu(),
            labels=(edit.target_new,),
            ids=(edit.id,),
            deferral=self.config.deferral,
        )
        noted = record(self, edit, change=b.detach().T @ a.detach(), losses=losses)
        noted["norms"]["key"] = round(float(key[0].norm()), 6)
        provenance = {**self.provenance(), "edits": [noted]}
        return BlockPatch(codebooks={self.model.weight_name(self.layer): book}, provenance=provenance)
