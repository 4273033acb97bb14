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

from kg_edit.edits.edit import Edit
from kg_edit.models.hooks import untouched
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
        """Return the update that all edits have together, each from its own gradient on the model as it is.

        Raises:
            ModelError: a loss or a gradient is not finite.
        """
        with untouched(self.model):
            gradients = [(row, at_targets(row, pairs), loss) for row, pairs, loss in map(self.gradient, edits)]
        prompts, by_edit, losses = zip(*gradients, strict=True)
        # by weight: keys [tokens, in] and gradients [tokens, out] of all edits
        joint = {
            name: (torch.cat([pairs[name][0] for pairs in by_edit]), torch.cat([pairs[name][1] for pairs in by_edit]))
            for name in self.editor.weights
        }
        factors = self.factors(prompts, joint)

        # A record has the norms of its edit's share: of its own columns of D^T and of K^T (K K^T + ridge I)^-1
        counts = [len(prompt.target_ids) for prompt in prompts]
        shares = {
            name: [
                change_norm(Factors(left=left, right=right))
                for left, right in zip(pair.left.cpu().split(counts, 1), pair.right.cpu().split(counts, 1), strict=True)
            ]
            for name, pair in factors.items()
        }
        records = list[dict[str, Any]]()
        for index, (edit, loss) in enumerate(zip(edits, losses, strict=True)):
            norms = {name: round(share[index], 6) for name, share in shares.items()}
            records.append({**self.record(edit), "nll_before": round(loss, 6), "norms": norms})
        return WeightPatch(
            factors={name: Factors.total([pair]) for name, pair in factors.items()},  # dense where that takes less
            provenance={**self.provenance(), "edits": records},
        )
