"""MEND (Mitchell et al., ICLR 2022, arXiv 2110.11309): a trained network turns one gradient into an edit.

The manifest of the network has what the gradient is of: -log p of the target, or of the whole statement (PropMEND).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.statement import StatementMethod
from kg_edit.models.hooks import untouched
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.mend.examples import whole_statement
from kg_edit.zoo.mend.gradients import gradient_factors, mlp_weights, weight_shapes
from kg_edit.zoo.mend.network import FORMAT, MendManifest, MendNetwork, Pairs
from kg_edit.zoo.trained.files import NETWORK, NetworkFormat, NetworkManifest


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
        """Return the settings of the plain step, if there is a trained network."""
        if not self.network:
            return {}
        why = "the trained network has its own weights and rates"
        return {"edit_lr": why, "blocks": why}

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the last ``self.blocks`` layers; a trained editor names its own weights, by default in as many."""
        return tuple(range(max(0, blocks - self.blocks), blocks))


@dataclass(frozen=True, eq=False, kw_only=True)
class Editor:
    """A network that edits.

    Attributes:
        weights: the names of the edited weights.
        factors: the change of each weight, from the prompts of the edits that are made together, and the factors of
            their gradients.
        note: the network in the provenance of a patch.
        of_statement: whether the gradient is that of the whole statement.
    """

    weights: Iterable[str]
    factors: Callable[[Sequence[Prompt], Pairs], dict[str, Factors]]
    note: dict[str, Any]
    of_statement: bool = False


class Mend(StatementMethod):
    """One gradient of -log p(new target), changed by the editor network; edits of a batch add up."""

    entry = method_entry("mend")
    config_class = MendConfig
    config: MendConfig
    file_format: ClassVar[NetworkFormat] = FORMAT
    manifest_class: ClassVar[type[NetworkManifest]] = MendManifest
    network_class: ClassVar[type[MendNetwork]] = MendNetwork

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that the trained editor can be read."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, MendConfig)  # noqa: S101 - config_class
        folder = cls._folder(config)
        if folder:
            cls.file_format.manifest(folder / NETWORK, cls.manifest_class)

    @classmethod
    def _folder(cls, config: MendConfig) -> Path | None:
        instead = "take a plain step of gradient descent"
        return cls.file_format.folder(config.network, untrained=config.untrained, instead=instead)

    def prepare(self) -> None:
        """Load the editor."""
        _ = self.editor

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return the sum of the edits' changes, each from its own gradient on the model in its present state."""
        changes = list[Mapping[str, Factors]]()
        records = list[dict[str, Any]]()
        with untouched(self.model):
            for edit in edits:
                change, record = self._change(edit)
                changes.append(change)
                records.append(record)
        factors = dict[str, Factors]()
        for name in changes[0]:
            factors[name] = Factors.total([change[name] for change in changes])
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})

    def _change(self, edit: Edit) -> tuple[Mapping[str, Factors], dict[str, Any]]:
        """Return the change of each weight for one edit, and the edit's record."""
        prompt, gradient, loss = self.gradient(edit)
        factors = self.factors([prompt], gradient)
        record = {
            **self.record(edit),
            "nll_before": round(loss, 6),
            "norms": {name: round(float(pair.product.norm()), 6) for name, pair in factors.items()},
        }
        return factors, record

    def gradient(self, edit: Edit) -> tuple[Prompt, Pairs, float]:
        """Return the row of an edit, the factors of its gradient for each weight, and its loss."""
        with annotate_errors(edit):
            prompt = self.row(edit)
            if self.editor.of_statement:
                prompt = whole_statement(prompt)
            factors, loss = gradient_factors(self.model, prompt, list(self.editor.weights))
            return prompt, factors, loss

    def factors(self, prompts: Sequence[Prompt], gradients: Pairs) -> Mapping[str, Factors]:
        """Return the editor's change of each weight, ``strength`` times."""
        return WeightPatch(factors=self.editor.factors(prompts, gradients)).scaled(self.config.strength).factors

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, plus the digest of the editor and data on its training."""
        provenance = super().provenance()
        provenance["methods"][0]["editor"] = self.editor.note
        return provenance

    @cached_property
    def editor(self) -> Editor:
        """The editor that the settings name: a trained one, or a plain step of gradient descent."""
        folder = self._folder(self.config)
        return self.untrained() if folder is None else self.load(folder)

    def untrained(self) -> Editor:
        """Return the network before its training: one plain step of gradient descent."""
        shapes = weight_shapes(self.model, mlp_weights(self.model, self.config.blocks))
        network = self.network_class(shapes, rank=1, edit_lr=self.config.edit_lr)
        network.to(self.model.device).requires_grad_(False)
        return _editor_of(network, shapes, {"digest": "untrained"}, of_statement=False)

    def load(self, folder: Path) -> Editor:
        """Return the network that the training command wrote to ``folder``."""
        kind = self.manifest_class
        assert issubclass(kind, MendManifest)  # noqa: S101 - KE, which has another, loads its own
        trained = self.file_format.trained(folder, self.model, kind, kind.network)
        of_statement = trained.manifest.training.gradient_of == "text"
        return _editor_of(trained.network, trained.network.shapes, trained.note, of_statement=of_statement)


def _editor_of(network: MendNetwork, weights: Iterable[str], note: dict[str, Any], *, of_statement: bool) -> Editor:
    """Return the editor with a network that reads the gradients alone, and not the edits' prompts."""
    return Editor(
        weights=weights,
        factors=lambda _, gradients: network.factors(gradients),
        note=note,
        of_statement=of_statement,
    )
