"""KE (De Cao et al., EMNLP 2021, arXiv 2104.08164): a network reads an edit and turns its gradient into an update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.ke.network import FORMAT, KeManifest, KeNetwork, embedding_width
from kg_edit.zoo.mend.gradients import mlp_weights, weight_shapes
from kg_edit.zoo.mend.method import Editor, Mend, MendConfig


class KeConfig(MendConfig):
    """KE's settings. All others, such as the edited weights, are stored with the trained network."""

    network: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="folder of a trained network, written by kg-edit ke train --out FOLDER",
    )
    edit_lr: float = Field(0.1, gt=0, lt=1, description="learning rate of the step with untrained=true")


class Ke(Mend):
    """One gradient of -log p(new target), gated and shifted by a network that reads the edit; edits add up."""

    entry = method_entry("ke")
    config_class = KeConfig
    config: KeConfig
    file_format = FORMAT
    manifest_class = KeManifest

    def untrained(self) -> Editor:
        """Return the network before its training: one plain step of gradient descent."""
        shapes = weight_shapes(self.model, mlp_weights(self.model, self.config.blocks))
        width = embedding_width(self.model)
        network = KeNetwork(shapes, width=width, hidden=1, inner=1, edit_lr=self.config.edit_lr)
        return self._editor_of(network.to(self.model.device).requires_grad_(False), {"digest": "untrained"})

    def load(self, folder: Path) -> Editor:
        """Return the network that `kg-edit ke train` wrote to ``folder``."""
        trained = FORMAT.trained(folder, self.model, KeManifest, KeManifest.network)
        return self._editor_of(trained.network, trained.note)

    def _editor_of(self, network: KeNetwork, note: dict[str, Any]) -> Editor:
        return Editor(
            weights=network.shapes,
            factors=lambda prompts, factors: network.conditioned(self.model, prompts).factors(factors),
            note=note,
        )
