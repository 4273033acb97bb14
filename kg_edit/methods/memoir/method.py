"""MEMOIR (Wang et al., NeurIPS 2025, arXiv 2506.07899): each edit writes into its own columns of a memory.

W_m [d, d_ff] stands beside one down-projection and starts at 0. Each edit has a mask of columns, which follows from its
prompt. Gradient descent changes only these columns of W_m. `kg_edit.methods.memoir.adapter` has the equations,
and how a mask is chosen for a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.optimise import untouched
from kg_edit.methods.adapters.base import BesideConfig, BesideMethod
from kg_edit.methods.adapters.own_text import own_texts
from kg_edit.methods.fine_tuning.base import record
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.methods.memoir.adapter import MaskRule, ResidualMemory
from kg_edit.models.hooks import watched
from kg_edit.models.prompts import left_pad
from kg_edit.models.replay import block_output
from kg_edit.models.token_means import TokenMeans
from kg_edit.patches.adapter_hooks import answering
from kg_edit.patches.adapter_patch import Side
from kg_edit.storage.seeds import Seed


class MemoirConfig(BesideConfig):
    """MEMOIR's settings. The default share of columns is the published one for LLaMA-3-8B."""

    steps: PositiveInt = Field(
        30, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(5e-3, gt=0, description="learning rate of Adam, for the mask's columns")
    columns: float = Field(
        2 / 7, gt=0, le=1, description="k: fraction of the columns in a mask; published: 4096 of 14336"
    )
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="tau: fraction of an edit's mask that a prompt must share to use it; published: 0.4",
    )
    background_texts: PositiveInt = Field(
        64, description="texts sampled from the model; their mean input is subtracted before masks are made"
    )
    background_tokens: PositiveInt = Field(16, description="length of these texts, in tokens")
    seed: Seed = Field(0, description="random seed of the permutation and of the sampled texts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}


class Memoir(BesideMethod):
    """Each edit trains columns of a memory beside one layer; its prompt selects the columns (the mask).

    The columns are used again for prompts with nearly the same mask.
    """

    name = "memoir"
    paper = "Wang et al., NeurIPS 2025, arXiv 2506.07899"
    about = "each edit trains its own columns of a memory beside one layer; similar prompts use them"
    side_kind = ResidualMemory.kind
    config_class = MemoirConfig
    config: MemoirConfig

    def prepare(self) -> None:
        """Measure the background (the mean input of other text) once."""
        with untouched(self.model):
            _ = self.background

    @cached_property
    def rule(self) -> MaskRule:
        """The rule by which masks are made and compared."""
        count = max(1, round(self.config.columns * self.shape[1]))
        return MaskRule(columns=count, threshold=self.config.threshold, seed=self.config.seed)

    @cached_property
    def background(self) -> Tensor:
        """The mean of the module's input over texts that the model writes itself, [d_ff]; each text counts equally."""
        count, tokens = self.config.background_texts, self.config.background_tokens
        return self._means(own_texts(self.model, texts=count, tokens=tokens, seed=self.config.seed)).mean(0).cpu()

    def trained(self, edits: Sequence[Edit], own: Side | None) -> tuple[Side, list[dict[str, Any]]]:
        """Train the columns of the one edit; the side has these columns and the edit's mask.

        Raises:
            PatchError: the masks of the earlier edits were made by other settings.
        """
        (edit,) = edits
        row = self.row(edit)
        earlier = own if isinstance(own, ResidualMemory) else self._empty
        earlier.plus(self._empty)  # raises before the training if the masks differ
        (mean,) = self._means([row.ids[: row.wanted[0][0] + 1]])
        mask = earlier.mask(mean[None])
        change = torch.zeros(self.shape[0], mask.shape[1], device=mean.device, requires_grad=True)
        losses = self._descend(row, earlier, mask, change)
        weight = torch.zeros(self.shape, device=mean.device)
        weight[:, mask[0]] = change.detach()
        side = ResidualMemory(
            weight=weight.cpu(), masks=mask.float().cpu(), background=earlier.background, rule=self.rule
        )
        return side, [record(self, edit, change=change.detach(), losses=losses)]

    def _descend(self, row: TrainingRow, earlier: ResidualMemory, mask: Tensor, change: Tensor) -> list[float]:
        """Train ``change`` [d, k] by Adam, active at the tokens whose mask the patch will open; return the losses."""
        base, bits = earlier.weight.to(change.device), earlier.bits(torch.cat([earlier.masks.to(mask.device), mask]))
        with TokenMeans(self.model, self.layer, name=self.side_kind).attached() as means:

            def add(inputs: Tensor, output: Tensor) -> Tensor:
                with torch.no_grad():
                    opened = earlier.chosen(means.of(inputs), bits) * inputs
                return output + opened @ base.T + opened[:, mask[0]] @ change.T

            losses = RowLosses(self.model, self.layer, [row])
            with answering(self.model, self.layer, add):
                return self.config.descent.run([change], lambda: losses().mean())

    @property
    def _empty(self) -> ResidualMemory:
        return ResidualMemory.empty(self.shape, self.background, self.rule)

    @torch.no_grad()
    def _means(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The mean input of the module over each row of tokens, [rows, d_ff] in float32."""
        found: list[Tensor] = []
        with TokenMeans(self.model, self.layer, name=self.side_kind).attached() as means:

            def see(inputs: Tensor, _: Tensor) -> None:
                flat = inputs.reshape(-1, inputs.shape[-1])
                found.append(means.of(flat).reshape(len(rows), -1, flat.shape[-1])[:, -1])

            with watched(self.module, see):
                block_output(self.model, left_pad(rows, device=self.model.device), self.layer)
        return found[0]
