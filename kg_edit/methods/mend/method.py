"""MEND (Mitchell et al., ICLR 2022, arXiv 2110.11309): a trained network turns one gradient into an edit.

The manifest of the network says what the gradient is of: -log p of the target, or of the whole statement (PropMEND).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.mend.examples import whole_statement
from kg_edit.methods.mend.gradients import gradient_factors, mlp_weights, weight_shapes
from kg_edit.methods.mend.network import MendNetwork
from kg_edit.methods.mend.store import FORMAT, NETWORK, load_editor, read_manifest
from kg_edit.methods.statement import encode_statement, warn_of_lead
from kg_edit.models.hooks import untouched
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.run_folder import NAMES_A_FILE

_UNTRAINED = "untrained"


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
        """The settings of the plain step, if there is a trained network."""
        why = "the trained network has its own weights and rates"
        return {"edit_lr": why, "blocks": why} if self.network else {}

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """The last ``self.blocks`` layers. A trained editor names its own weights, by default in as many layers."""
        return tuple(range(max(0, blocks - self.blocks), blocks))


class Mend(EditingMethod):
    """One gradient of -log p(new target), changed by the editor network; edits of a batch add up."""

    name = "mend"
    paper = "Mitchell et al., ICLR 2022, arXiv 2110.11309"
    about = "a trained network turns an edit's gradient into its update"
    family = "hypernetwork"
    joint = True
    config_class = MendConfig
    config: MendConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that the trained editor can be read.

        Raises:
            ConfigError: neither ``network`` nor ``untrained`` is set, or both are.
            ModelError: the folder has no editor, or its file is damaged.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, MendConfig)  # noqa: S101 - config_class
        cls.check_network(config)

    @classmethod
    def check_network(cls, config: MendConfig) -> None:
        """Check that the editor that ``config`` names can be read.

        Raises:
            ConfigError, ModelError: as `check_inputs`.
        """
        folder = _folder(config)
        if folder:
            read_manifest(folder / NETWORK)

    def prepare(self) -> None:
        """Load the editor.

        Raises:
            ConfigError, ModelError: as `check_inputs`.
            PatchMismatchError: the editor was trained for another model.
        """
        _ = self._editor

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's prompt, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                encode_statement(self.model, edit, method=self.name)
                warn_of_lead(self.model, edit, method=self.name)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """The sum of the edits' changes, each computed from its own gradient on the model in its present state."""
        refuse_clash(edits)
        with untouched(self.model):
            return reduce(add, [self._patch(edit) for edit in edits])

    def provenance(self) -> dict[str, Any]:
        """The provenance of every method, plus the digest of the editor and data on its training."""
        said = super().provenance()
        said["methods"][0]["editor"] = self._editor.said
        return said

    def _patch(self, edit: Edit) -> WeightPatch:
        network = self._editor.network
        with annotate_errors(edit):
            prompt = encode_statement(self.model, edit, method=self.name)
            prompt = whole_statement(prompt) if self._editor.whole else prompt
            gradient, loss = gradient_factors(self.model, prompt, list(network.shapes))
        factors = network.factors(gradient)
        patch = WeightPatch(factors=factors).scaled(self.config.strength)
        records = [self.record(edit, loss, patch)]
        return WeightPatch(factors=patch.factors, provenance={**self.provenance(), "edits": records})

    def record(self, edit: Edit, loss: float, patch: WeightPatch) -> dict[str, Any]:
        """The record of one edit for a patch: the loss before the edit, and the norms of the changes."""
        return {
            "edit": edit.model_dump(mode="json", exclude_defaults=True),
            "method": self.name,
            "nll_before": round(loss, 6),
            "norms": {name: round(float(pair.product.norm()), 6) for name, pair in patch.factors.items()},
        }

    @cached_property
    def _editor(self) -> _Editor:
        folder = _folder(self.config)
        if folder is None:
            shapes = weight_shapes(self.model, mlp_weights(self.model, self.config.blocks))
            network = MendNetwork(shapes, rank=1, edit_lr=self.config.edit_lr)
            return _Editor(network.to(self.model.device).requires_grad_(False), {"digest": _UNTRAINED})
        editor = load_editor(folder, self.model)
        manifest = editor.manifest
        said = manifest.model_dump(mode="json", include={"edits", "examples", "steps"})
        whole = manifest.training.gradient_of == "text"
        return _Editor(editor.network, {"digest": editor.digest, **said}, whole=whole)


@dataclass(frozen=True, eq=False)
class _Editor:
    """The network, its description for the provenance, and whether the gradient is that of the whole statement."""

    network: MendNetwork
    said: dict[str, Any]
    whole: bool = False


def _folder(config: MendConfig) -> Path | None:
    needs, instead = "--data EDITS --model NAME", "take a plain step of gradient descent"
    return FORMAT.folder(config.network, untrained=config.untrained, needs=needs, instead=instead)
