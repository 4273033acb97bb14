"""MEND (Mitchell et al., ICLR 2022, arXiv 2110.11309): a trained network turns one gradient into an edit.

The gradient of the loss L by a weight W [out, in] is a sum over the tokens t of the edit's prompt with its target:

    dL/dW = sum_t delta_t u_t^T,    u_t [in] the input of W,    delta_t [out] the gradient of L at the output of W

The network maps the two vectors of each token to better ones, and the edit changes W by

    change of W = -rate sum_t delta~_t u~_t^T,    (u~_t, delta~_t) = network(u_t, delta_t)

L is -log p of the target, or of the whole statement (PropMEND); the network's manifest says which.

`Mend.make` makes edits: `compute_gradients` returns u and delta of each weight, and `compute_change` turns them into
the weight's change. KE and MALMEN are subclasses with other networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from torch import nn

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.statement import StatementMethod
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.mend.examples import whole_statement
from kg_edit.zoo.mend.gradients import Gradients, Shape, gradient_factors, mlp_weights, weight_shapes
from kg_edit.zoo.mend.network import FORMAT, EditorManifest, MendManifest, MendNetwork, MendTraining
from kg_edit.zoo.trained.files import NETWORK, NetworkFormat


class MendConfig(MethodConfig):
    """MEND's settings. All others, such as the edited weights, are stored with the trained editor."""

    network: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="folder of a trained editor, written by kg-edit mend train --out FOLDER",
    )
    strength: float = Field(1.0, gt=0, description="factor of the editor's change")
    untrained: bool = Field(False, description="use no editor, but one plain step of gradient descent on the last MLPs")
    edit_lr: float = Field(0.1, gt=0, description="learning rate of the step with untrained=true")
    blocks: PositiveInt = Field(3, description="number of last blocks whose MLPs take the step with untrained=true")

    def idle(self) -> dict[str, str]:
        """Return the settings that have no effect with a trained network, and why."""
        if not self.network:
            return {}
        why = "the trained network has its own weights and rates"
        return {"edit_lr": why, "blocks": why}

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the last ``self.blocks`` layers; a trained editor names its own weights, by default in as many."""
        return tuple(range(max(0, blocks - self.blocks), blocks))


@dataclass(frozen=True, eq=False, kw_only=True)
class Editor:
    """A network that edits, frozen and on the model's device.

    Attributes:
        network: maps gradients to changes.
        weights: the names of the edited weights.
        of_statement: whether the network reads the gradient of the whole statement, instead of that of the target.
        note: the network in the provenance of a patch.
    """

    network: nn.Module
    weights: tuple[str, ...]
    of_statement: bool
    note: dict[str, Any]


class Mend(StatementMethod):
    """One gradient of -log p(new target), changed by the editor network; edits of a batch add up."""

    entry = method_entry("mend")
    config_class = MendConfig
    config: MendConfig
    file_format: ClassVar[NetworkFormat] = FORMAT
    manifest_class: ClassVar[type[EditorManifest]] = MendManifest

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that the trained editor can be read."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, MendConfig)  # noqa: S101 - config_class
        folder = cls._find_folder(config)
        if folder:
            # Raises if the file is missing or damaged
            cls.file_format.read_manifest(folder / NETWORK, cls.manifest_class)

    @classmethod
    def _find_folder(cls, config: MendConfig) -> Path | None:
        """Return the folder of the trained network; None with ``untrained``. Refuse both or neither of the two."""
        return cls.file_format.find_folder(
            config.network, untrained=config.untrained, instead="take a plain step of gradient descent"
        )

    def prepare(self) -> None:
        """Load the editor."""
        _ = self.editor  # the property loads it, and keeps it for all edits

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return the sum of the edits' changes, each from its own gradient on the model in its present state."""
        changes = list[Mapping[str, Factors]]()
        records = list[dict[str, Any]]()
        with keep_untouched(self.model):
            for edit in edits:
                prompt, gradients, loss = self.compute_gradients(edit)
                change = self.compute_change([prompt], gradients)
                norms = {name: round(float(factors.product.norm()), 6) for name, factors in change.items()}
                changes.append(change)
                records.append({**self.record(edit), "nll_before": round(loss, 6), "norms": norms})

        # Each weight's change is the sum of its changes by the edits.
        total = dict[str, Factors]()
        for name in changes[0]:
            total[name] = Factors.join([change[name] for change in changes])
        return WeightPatch(factors=total, provenance={**self.provenance(), "edits": records})

    def compute_gradients(self, edit: Edit) -> tuple[Prompt, Gradients, float]:
        """Return the row of an edit, its gradients (u [tokens, in], delta [tokens, out]) by weight, and its loss."""
        with annotate_errors(edit):
            prompt = self.encode_edit(edit)
            if self.editor.of_statement:
                prompt = whole_statement(prompt)
            gradients, loss = gradient_factors(self.model, prompt, self.editor.weights)
            return prompt, gradients, loss

    def compute_change(self, prompts: Sequence[Prompt], gradients: Gradients) -> Mapping[str, Factors]:
        """Return the change of each weight: ``strength`` times that of the network."""
        change = self.run_network(prompts, gradients)
        return WeightPatch(factors=change).scaled(self.config.strength).factors

    def run_network(self, prompts: Sequence[Prompt], gradients: Gradients) -> dict[str, Factors]:
        """Return the network's change of each weight. It is a function of the gradients; KE reads ``prompts`` too."""
        network = self.editor.network
        assert isinstance(network, MendNetwork)  # noqa: S101 - as built by MendManifest
        return network.compute_factors(gradients)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, plus the digest of the editor and data on its training."""
        provenance = super().provenance()
        provenance["methods"][0]["editor"] = self.editor.note
        return provenance

    @cached_property
    def editor(self) -> Editor:
        """The editor: the trained one in ``network``, or with ``untrained`` a plain step of gradient descent."""
        folder = self._find_folder(self.config)
        if folder is None:
            return self.build_untrained()
        return self.load_trained(folder)

    def load_trained(self, folder: Path) -> Editor:
        """Return the editor that the training command wrote to ``folder``."""
        kind = self.manifest_class
        trained = self.file_format.load_network(folder, self.model, kind, kind.build_network)
        return Editor(
            network=trained.network,
            weights=tuple(trained.manifest.shapes),
            of_statement=trained.manifest.training.gradient_of == "text",
            note=trained.note,
        )

    def build_untrained(self) -> Editor:
        """Return an editor before its training, which takes one plain step of gradient descent."""
        shapes = weight_shapes(self.model, mlp_weights(self.model, self.config.blocks))
        network = self.describe_untrained(shapes).build_network()
        network.to(self.model.device).requires_grad_(False)
        return Editor(network=network, weights=tuple(shapes), of_statement=False, note={"digest": "untrained"})

    def describe_untrained(self, shapes: dict[str, Shape]) -> EditorManifest:
        """Return the manifest of the smallest network for weights of these shapes."""
        return MendManifest(
            model=self.model.fingerprint,
            model_name=self.model.name,
            shapes=shapes,
            training=MendTraining(rank=1, edit_lr=self.config.edit_lr),
        )
