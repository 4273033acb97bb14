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
from kg_edit.methods.fine_tuning.base import record_change
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, row_of
from kg_edit.methods.statement import encode_statement
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import weight_matrix
from kg_edit.patches.adapter_hooks import replace_output
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
    def _expand_by_mean(cls, rule: object) -> object:
        if not isinstance(rule, dict):
            return rule
        return {"expand": "mean", **rule}  # the rule may be a part of the settings, such as the radius alone

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

    def encode_edit(self, edit: Edit) -> TrainingRow:
        """Return the training row of an edit: its prompt and its target."""
        return row_of(encode_statement(self.model, edit, method=self.name), "target")

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train the block of one edit."""
        (edit,) = edits
        with keep_untouched(self.model):
            key, a, b, losses = self._train_block(self.encode_edit(edit))
        book = Blocks(
            keys=key[None].to(self.model.model.dtype).cpu(),  # its rounding shows which keys are the same
            values=torch.cat([a, b], dim=1)[None].cpu(),
            labels=(edit.target_new,),
            ids=(edit.id,),
            deferral=self.config.deferral,
        )
        edit_record = record_change(self, edit, change=b.T @ a, losses=losses)
        edit_record["norms"]["key"] = round(float(key.norm()), 6)
        provenance = {**self.provenance(), "edits": [edit_record]}
        return BlockPatch(codebooks={self.model.weight_name(self.layer): book}, provenance=provenance)

    def _train_block(self, row: TrainingRow) -> tuple[Tensor, Tensor, Tensor, list[float]]:
        """Train the block of an edit.

        Returns:
            The key [d_ff], A [r, d_ff], B [r, d], and the losses.
        """
        end = row.prompt_end
        assert end is not None  # noqa: S101 - the row of a prompt
        # A is random and B is zero, so that B^T A x is 0 at first.
        weight = weight_matrix(self.model.down_projection(self.layer))
        d, d_ff = weight.shape
        rank = self.config.rank
        draw = torch.Generator().manual_seed(self.config.seed)
        a = linear_init(rank, d_ff, draw).to(weight.device).requires_grad_()
        b = torch.zeros(rank, d, device=weight.device, requires_grad=True)
        key = torch.empty(d_ff, device=weight.device)  # each pass of the model sets it

        def forward(inputs: Tensor, output: Tensor) -> Tensor:
            nonlocal key
            key = inputs[end].detach()  # the same in each pass, as no block acts before this token
            edited = output[end:] + inputs[end:] @ a.T @ b
            return torch.cat([output[:end], edited])

        row_losses = RowLosses(self.model, self.layer, [row])
        with replace_output(self.model, self.layer, forward):
            losses = self.config.descent.run([a, b], lambda: row_losses().mean())
        return key, a.detach(), b.detach(), losses
