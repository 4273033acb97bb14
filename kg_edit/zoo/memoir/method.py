"""MEMOIR (Wang et al., NeurIPS 2025, arXiv 2506.07899): each edit writes into its own columns of a memory.

W_m [d, d_ff] is added to one down-projection and starts at 0. Each edit has a mask of columns, which follows from its
prompt. Gradient descent changes only these columns of W_m. `memoir.adapter` has the equations, and how a mask is chosen
for a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.replay import block_output
from kg_edit.methods.fine_tuning.base import record_change
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.hooks import keep_untouched, watch
from kg_edit.models.prompts import left_pad
from kg_edit.models.sampling import sample_rows
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import Adapter
from kg_edit.zoo.adapters.base import AdapterConfig, AdapterMethod
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.memoir.adapter import MaskSettings, ResidualMemory
from kg_edit.zoo.token_means import TokenMeans


class MemoirConfig(MaskSettings, AdapterConfig):
    """MEMOIR's settings. The default share of columns is the published one for LLaMA-3-8B."""

    steps: PositiveInt = Field(
        30, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(5e-3, gt=0, description="learning rate of Adam, for the mask's columns")
    background_texts: PositiveInt = Field(
        64, description="texts sampled from the model; their mean input is subtracted before masks are made"
    )
    background_tokens: PositiveInt = Field(16, description="length of these texts, in tokens")


class Memoir(AdapterMethod):
    """Each edit trains columns of a memory that is added to one layer; its prompt selects the columns (the mask).

    The columns are used again for prompts with nearly the same mask.
    """

    entry = method_entry("memoir")
    adapter_class = ResidualMemory
    config_class = MemoirConfig
    config: MemoirConfig

    def prepare(self) -> None:
        """Measure the background (the mean input of other text) once."""
        with keep_untouched(self.model):
            _ = self.background  # the property measures it, and keeps it

    @cached_property
    def background(self) -> Tensor:
        """The mean of the module's input over texts that the model writes itself, [d_ff]; each text counts equally."""
        count = self.config.background_texts
        tokens = self.config.background_tokens
        texts = sample_rows(self.model, rows=count, tokens=tokens, seed=self.config.seed)
        return self.means(texts).mean(0).cpu()

    def train(self, edits: Sequence[Edit], earlier: Adapter | None) -> tuple[Adapter, list[dict[str, Any]]]:
        """Train the columns of the one edit; the adapter has these columns and the edit's mask."""
        (edit,) = edits
        empty = ResidualMemory.empty(self.shape, self.background, MaskSettings.of(self.config))
        memory = earlier if isinstance(earlier, ResidualMemory) else empty
        memory.plus(empty)  # raises before the training if the masks differ

        # The edit's mask: TopHash of the mean input over its prompt.
        row = self.encode_edit(edit)
        first_position, _ = row.targets[0]  # of the token that predicts the target's first one
        prompt = row.ids[: first_position + 1]
        mask = memory.make_masks(self.means([prompt]))  # [1, k]
        change, losses = self._train_columns(row, mask, memory)

        full_change = torch.zeros(self.shape, device=mask.device)
        full_change[:, mask[0]] = change
        adapter = ResidualMemory(
            weight=full_change.cpu(), masks=mask.float().cpu(), background=memory.background, settings=memory.settings
        )
        return adapter, [record_change(self, edit, change=change, losses=losses)]

    def _train_columns(self, row: TrainingRow, mask: Tensor, memory: ResidualMemory) -> tuple[Tensor, list[float]]:
        """Train the columns of a mask alone; they act at the tokens whose mask the patch will open.

        Args:
            row: the edit's prompt with its target.
            mask: the edit's mask, [1, k].
            memory: of the earlier edits, which acts too.

        Returns:
            The change of the columns [d, k], and the losses.
        """
        change = torch.zeros(self.shape[0], mask.shape[1], device=mask.device, requires_grad=True)  # [d, k]
        weight = memory.weight.to(mask.device)
        bits = memory.to_bits(torch.cat([memory.masks.to(mask.device), mask]))
        with TokenMeans(self.model, self.layer, name=self.name).attached() as means:

            def forward(inputs: Tensor, output: Tensor) -> Tensor:
                with torch.no_grad():
                    masked = memory.choose_masks(means.of(inputs), bits) * inputs  # M * a, [tokens, d_ff]
                return output + masked @ weight.T + masked[:, mask[0]] @ change.T

            row_losses = RowLosses(self.model, self.layer, [row])
            with replace_output(self.model, self.layer, forward):
                losses = self.config.descent.run([change], lambda: row_losses().mean())
        return change.detach(), losses

    @torch.no_grad()
    def means(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean input of the module over each row of tokens, [rows, d_ff] in float32."""
        row_means: list[Tensor] = []
        with TokenMeans(self.model, self.layer, name=self.name).attached() as means:

            def see(inputs: Tensor, _: Tensor) -> None:
                flat = inputs.reshape(-1, inputs.shape[-1])
                running = means.of(flat).reshape(len(rows), -1, flat.shape[-1])  # the mean up to each token
                row_means.append(running[:, -1])

            with watch(self.module, see):
                block_output(self.model, left_pad(rows, device=self.model.device), self.layer)
        return row_means[0]
