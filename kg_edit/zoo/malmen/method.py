"""MALMEN (Tan et al., ICLR 2024, arXiv 2311.04661): a trained network edits many facts at once.

1. For each token of an edit's target: the key k, which is the input of an edited weight, and the gradient g of
   -log p(new target) at its output.
2. The network turns them into a change d of the output at this token (`MalmenNetwork`).
3. One update of each weight fits the changes of all tokens of all edits, by ridge regression on the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.malmen.network import FORMAT, MalmenManifest, MalmenTraining
from kg_edit.zoo.mend.gradients import Gradients, Shape, at_targets
from kg_edit.zoo.mend.method import Mend, MendConfig


class MalmenConfig(MendConfig):
    """MALMEN's settings. All others, such as the edited weights, are stored with the trained editor."""

    network: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="folder of a trained editor, written by kg-edit malmen train --out FOLDER",
    )
    untrained: bool = Field(
        False, description="use no editor, but the changes of one step of gradient descent, fitted together"
    )


class Malmen(Mend):
    """One update for all edits of a call: a network's value differences, aggregated by ridge regression."""

    entry = method_entry("malmen")
    config_class = MalmenConfig
    config: MalmenConfig
    file_format = FORMAT
    manifest_class = MalmenManifest

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return the update that all edits have together, each from its own gradient on the model as it is."""
        # 1. K [tokens, in] and the gradients [tokens, out] at the target tokens of all edits, by weight
        prompts = list[Prompt]()
        losses = list[float]()
        of_edits = list[Gradients]()
        with keep_untouched(self.model):
            for edit in edits:
                prompt, gradients, loss = self.compute_gradients(edit)
                prompts.append(prompt)
                losses.append(loss)
                of_edits.append(at_targets(prompt, gradients))
        joint = join_tokens(of_edits, self.editor.weights)

        # 2. and 3. The network's value differences D, and the ridge regression D^T (K K^T + ridge I)^-1 K
        change = self.compute_change(prompts, joint)

        # Of each weight, the norms of the edits' own parts [edits]
        edit_norms = {name: measure_edits(factors, prompts) for name, factors in change.items()}
        records: list[dict[str, Any]] = []
        for index, edit in enumerate(edits):
            norms = {name: round(norms_of_weight[index], 6) for name, norms_of_weight in edit_norms.items()}
            records.append({**self.record(edit), "nll_before": round(losses[index], 6), "norms": norms})
        update = {name: Factors.join([factors]) for name, factors in change.items()}  # dense where that takes less
        return WeightPatch(factors=update, provenance={**self.provenance(), "edits": records})

    def describe_untrained(self, shapes: dict[str, Shape]) -> MalmenManifest:
        """Return the manifest of the smallest network for weights of these shapes."""
        return MalmenManifest(
            model=self.model.fingerprint,
            model_name=self.model.name,
            shapes=shapes,
            training=MalmenTraining(rank=1, edit_lr=self.config.edit_lr),
        )


def join_tokens(of_prompts: Sequence[Gradients], names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the keys [tokens, in] and the gradients [tokens, out] of all prompts together, by weight name."""
    joined = dict[str, tuple[Tensor, Tensor]]()
    for name in names:
        keys = [gradients[name][0] for gradients in of_prompts]
        deltas = [gradients[name][1] for gradients in of_prompts]
        joined[name] = torch.cat(keys), torch.cat(deltas)
    return joined


def measure_edits(change: Factors, prompts: Sequence[Prompt]) -> list[float]:
    """Return the norm of each edit's part of a weight's change.

    Both factors have a column for each target token, and an edit's part is the product of its own columns.
    """
    counts = [len(prompt.target_ids) for prompt in prompts]
    lefts = change.left.cpu().split(counts, 1)  # [out, tokens of the edit] each
    rights = change.right.cpu().split(counts, 1)  # [in, tokens of the edit] each
    return [Factors(left=left, right=right).norm for left, right in zip(lefts, rights, strict=True)]
