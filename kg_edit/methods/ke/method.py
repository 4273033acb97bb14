"""KE (De Cao et al., EMNLP 2021, arXiv 2104.08164): a network reads an edit and turns its gradient into an update."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.ke.network import KeNetwork
from kg_edit.methods.ke.store import FORMAT, KeManifest, embedding_width, load_ke
from kg_edit.methods.mend.gradients import gradient_factors, mlp_weights, weight_shapes
from kg_edit.methods.mend.method import Mend, MendConfig
from kg_edit.methods.statement import encode_statement
from kg_edit.methods.trained.files import NETWORK
from kg_edit.patches.weight_patch import WeightPatch


class KeConfig(MendConfig):
    """KE's settings. All others, such as the edited weights, are stored with the trained network."""

    network: str | None = Field(
        None,
        json_schema_extra=MendConfig.model_fields["network"].json_schema_extra,
        description="folder of a trained network, written by kg-edit ke train --out FOLDER",
    )
    edit_lr: float = Field(0.1, gt=0, lt=1, description="learning rate of the step with untrained=true")


class Ke(Mend):
    """One gradient of -log p(new target), gated and shifted by a network that reads the edit; edits add up."""

    name = "ke"
    paper = "De Cao et al., EMNLP 2021, arXiv 2104.08164"
    about = "a recurrent network reads the edit and turns its gradient into an update"
    config_class = KeConfig
    config: KeConfig

    @classmethod
    def check_network(cls, config: MendConfig) -> None:
        """Check that the network that ``config`` names can be read.

        Raises:
            ConfigError: neither ``network`` nor ``untrained`` is set, or both are.
            ModelError: the folder has no network, or its file is damaged.
        """
        if folder := _folder(config):
            FORMAT.manifest(folder / NETWORK, KeManifest)

    def prepare(self) -> None:
        """Load the network.

        Raises:
            ConfigError, ModelError: as `check_inputs`.
            PatchMismatchError: the network was trained for another model.
        """
        _ = self._reader

    def provenance(self) -> dict[str, Any]:
        """The provenance of every method, plus the digest of the network and data on its training."""
        said = EditingMethod.provenance(self)
        said["methods"][0]["editor"] = self._reader[1]
        return said

    def _patch(self, edit: Edit) -> WeightPatch:
        network, _ = self._reader
        with annotate_errors(edit):
            prompt = encode_statement(self.model, edit, method=self.name)
            gradient, loss = gradient_factors(self.model, prompt, list(network.shapes))
        factors = network.conditioned(self.model, [prompt]).factors(gradient)
        patch = WeightPatch(factors=factors).scaled(self.config.strength)
        return WeightPatch(
            factors=patch.factors, provenance={**self.provenance(), "edits": [self.record(edit, loss, patch)]}
        )

    @cached_property
    def _reader(self) -> tuple[KeNetwork, dict[str, Any]]:
        """The network, and its description for the provenance."""
        folder = _folder(self.config)
        if folder is None:
            shapes = weight_shapes(self.model, mlp_weights(self.model, self.config.blocks))
            width = embedding_width(self.model)
            network = KeNetwork(shapes, width=width, hidden=1, inner=1, edit_lr=self.config.edit_lr)
            return network.to(self.model.device).requires_grad_(False), {"digest": "untrained"}
        editor = load_ke(folder, self.model)
        said = editor.manifest.model_dump(mode="json", include={"edits", "examples", "steps"})
        return editor.network, {"digest": editor.digest, **said}


def _folder(config: MendConfig) -> Path | None:
    needs, instead = "--data EDITS --model NAME", "take a plain step of gradient descent"
    return FORMAT.folder(config.network, untrained=config.untrained, needs=needs, instead=instead)
