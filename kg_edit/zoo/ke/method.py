"""KE (De Cao et al., EMNLP 2021, arXiv 2104.08164): a network reads an edit and turns its gradient into an update."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from kg_edit.models.prompts import Prompt
from kg_edit.patches.factors import Factors
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.ke.network import FORMAT, KeManifest, KeNetwork, KeTraining, embedding_width
from kg_edit.zoo.mend.gradients import Gradients, Shape
from kg_edit.zoo.mend.method import Mend, MendConfig


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

    def run_network(self, prompts: Sequence[Prompt], gradients: Gradients) -> dict[str, Factors]:
        """Return the network's change of each weight, from the edit's prompt and its gradients."""
        network = self.editor.network
        assert isinstance(network, KeNetwork)  # noqa: S101 - as built by KeManifest
        return network.condition_on(self.model, prompts).compute_factors(gradients)

    def describe_untrained(self, shapes: dict[str, Shape]) -> KeManifest:
        """Return the manifest of the smallest network for weights of these shapes: an LSTM and an MLP of size 1.

        An untrained network takes a plain gradient step whatever it reads (`KeNetwork`), so its size does not matter.
        """
        return KeManifest(
            model=self.model.fingerprint,
            model_name=self.model.name,
            width=embedding_width(self.model),
            shapes=shapes,
            training=KeTraining(hidden=1, inner=1, edit_lr=self.config.edit_lr),
        )
