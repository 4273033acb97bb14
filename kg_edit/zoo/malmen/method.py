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
from kg_edit.models.hooks import untouched
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import change_norm
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.malmen.network import FORMAT, MalmenManifest, MalmenNetwork
from kg_edit.zoo.mend.gradients import at_targets
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
    network_class = MalmenNetwork

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return the update that all edits have together, each from its own gradient on the model as it is."""
        # K [tokens, in] and the gradients [tokens, out] at the target tokens of all edits, by weight
        prompts = list[Prompt]()
        losses = list[float]()
        keys: dict[str, list[Tensor]] = {name: [] for name in self.editor.weights}
        gradients: dict[str, list[Tensor]] = {name: [] for name in self.editor.weights}
        with untouched(self.model):
            for edit in edits:
                prompt, pairs, loss = self.gradient(edit)
                prompts.append(prompt)
                losses.append(loss)
                for name, (key, gradient) in at_targets(prompt, pairs).items():
                    keys[name].append(key)
                    gradients[name].append(gradient)
        joint = {name: (torch.cat(keys[name]), torch.cat(gradients[name])) for name in keys}

        # The network's value differences D, and the ridge regression D^T K^T (K K^T + ridge I)^-1
        factors = self.factors(prompts, joint)

        shares = {name: self.norms_by_edit(pair, prompts) for name, pair in factors.items()}
        records = list[dict[str, Any]]()
        for index, edit in enumerate(edits):
            norms = {name: round(share[index], 6) for name, share in shares.items()}
            records.append({**self.record(edit), "nll_before": round(losses[index], 6), "norms": norms})
        updates = {name: Factors.total([pair]) for name, pair in factors.items()}  # dense where that takes less
        return WeightPatch(factors=updates, provenance={**self.provenance(), "edits": records})

    def norms_by_edit(self, update: Factors, prompts: Sequence[Prompt]) -> list[float]:
        """Return the norm of each edit's share in an update: of its own columns of both factors, one for each token."""
        counts = [len(prompt.target_ids) for prompt in prompts]
        lefts = update.left.cpu().split(counts, 1)
        rights = update.right.cpu().split(counts, 1)
        return [change_norm(Factors(left=left, right=right)) for left, right in zip(lefts, rights, strict=True)]
