"""Fine-tuning with elastic weight consolidation (EWC): a penalty on changes of weights that other text needs.

Kirkpatrick et al., PNAS 2017, arXiv 1612.00796, Eq. 3:

    loss = L + ewc_weight / 2 sum_i F_i (W_i - W*_i)^2

F [d, d_ff] is the diagonal of the Fisher information, measured on text that the model itself writes. W* is the anchor:
the weights before any edit, which stay the same through a sequence of edits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig, sum_changes
from kg_edit.methods.fine_tuning.descent import add_changes, new_change
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_rows
from kg_edit.patches.base import Patch
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.entries import method_entry


class FtEwcConfig(FineTuningConfig):
    """Settings of fine-tuning with the EWC penalty."""

    ewc_weight: NonNegativeFloat = Field(
        0.1, description="weight of the penalty 1/2 sum F (W - W*)^2, where F has mean 1"
    )
    anchor: Literal["original", "previous"] = Field(
        "original", description="W*: the weights before all edits (original), or right before this edit (previous)"
    )
    fisher_texts: PositiveInt = Field(32, description="texts sampled from the model, on which F is measured")
    fisher_tokens: PositiveInt = Field(32, description="length of these texts, in tokens")
    seed: Seed = Field(0, description="random seed of the sampled texts")


class FtEwc(FineTuning):
    """Loss + weight/2 sum_i F_i (W_i - W*_i)^2, with F the diagonal Fisher information of the unedited model.

    The anchor W* is fixed, as in EWC: the penalty is on the total change by all edits of a sequence. With
    ``anchor=previous`` the anchor of each edit is the weights before it, so a sequence may drift away in small steps.
    """

    entry = method_entry("ft-ewc")
    config_class = FtEwcConfig
    config: FtEwcConfig

    @cached_property
    def fisher(self) -> Tensor:
        """F, the diagonal Fisher information of the tuned weight, [d, d_ff]."""
        return diagonal_fisher(self.model, self.layer, self.config)

    def prepare(self) -> None:
        """Measure F, the diagonal Fisher information, once."""
        with keep_untouched(self.model):
            _ = self.fisher

    def penalty(self, change: Tensor, before: Patch) -> Callable[[], Tensor]:
        """Return a function that computes the penalty on ``change`` [d, d_ff], a scalar."""
        if self.config.anchor == "original":
            moved = sum_changes(before, self.model.weight_name(self.layer), like=change)
        else:
            moved = torch.zeros_like(change, requires_grad=False)

        def compute() -> Tensor:
            from_anchor = moved + change  # W - W*
            return 0.5 * self.config.ewc_weight * (self.fisher * from_anchor.square()).sum()

        return compute


def diagonal_fisher(model: LanguageModel, layer: int, config: FtEwcConfig) -> Tensor:
    """Return F = E[(d log P(token) / d W)^2] of the down-projection in block ``layer``, [d, d_ff], scaled to mean 1.

    The tokens are drawn from the model's own distribution, so this is the Fisher information itself and not the
    "empirical" one.
    """
    tokens = config.fisher_tokens
    module = model.down_projection(layer)
    texts = sample_rows(model, rows=config.fisher_texts, tokens=tokens, seed=config.seed)
    change = new_change(module)
    total = torch.zeros_like(change)
    with add_changes(module, [change]):
        for ids in texts:
            row = TrainingRow(ids=ids[:-1], targets=tuple(enumerate(ids[1:])))
            # The score of a text is the sum of its tokens' scores. These are uncorrelated, so the mean of its square
            # is the sum of the mean squares of theirs. The loss is a mean over tokens, hence the factor.
            (score,) = torch.autograd.grad(tokens * RowLosses(model, layer, [row])().sum(), change)
            total += score.square()
    mean = total.mean()
    return total / mean.clamp(min=torch.finfo(mean.dtype).tiny)
