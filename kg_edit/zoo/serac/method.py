"""SERAC (Mitchell et al., ICML 2022, arXiv 2206.06520): edits in a memory, a scope classifier, a counterfactual model.

Making an edit changes no weights and trains nothing: the edit is encoded for the classifier and put into the memory.
`serac.patch` has the equation of the edited model, `serac.scope` that of the classifier, `serac.counterfactual` that of
the model which reads the facts; `serac.training` has the loss by which both are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import MethodConfig
from kg_edit.models.prompts import encode
from kg_edit.patches.base import Patch
from kg_edit.scoring.questions import new_fact
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.serac.counterfactual import Pair
from kg_edit.zoo.serac.network import FORMAT, SeracManifest, SeracNetwork, default_layer
from kg_edit.zoo.serac.patch import ScopedFact, ScopePatch, ScopeRule
from kg_edit.zoo.serac.scope import Scope, text_states
from kg_edit.zoo.serac.special_token import find_marker
from kg_edit.zoo.trained.files import NETWORK, Trained


class SeracConfig(MethodConfig):
    """SERAC's settings; all others are stored with the trained network."""

    network: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="folder of a trained network, written by kg-edit serac train --out FOLDER",
    )
    threshold: float = Field(0.5, ge=0, le=1, description="a prompt is in an edit's scope if g is at least this")
    untrained: bool = Field(
        False, description="use no network: the model itself reads the fact, before nearly the edit's own prompt only"
    )
    layer: int | None = Field(
        None,
        ge=0,
        description="with untrained=true: block whose states are compared, 0-based; default 0.4 of the depth",
    )

    def idle(self) -> dict[str, str]:
        """Return the layer, if there is a trained network."""
        if not self.network:
            return {}
        return {"layer": "the trained network has its own layer"}


class Serac(EditingMethod):
    """An edit is a fact in a memory; the counterfactual model answers prompts in its scope, the model f all others."""

    entry = method_entry("serac")
    patch_class = ScopePatch
    config_class = SeracConfig
    config: SeracConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that the trained network can be read."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, SeracConfig)  # noqa: S101 - config_class
        folder = _find_folder(config)
        if folder:
            FORMAT.read_manifest(folder / NETWORK, SeracManifest)  # raises if the file is missing or damaged

    def prepare(self) -> None:
        """Load the network."""
        _ = self._empty

    def check(self, edits: Sequence[Edit]) -> None:
        """Check that each fact with its prompt fits into the model's positions."""
        for edit in edits:
            with annotate_errors(edit):
                prompt = self._empty.rule.prompt(new_fact(edit), edit.text)
                self.model.check_length(encode(self.model.tokenizer, prompt))

    def empty_patch(self) -> Patch:
        """Return a `ScopePatch` without facts; it changes nothing."""
        return self._empty

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return a `ScopePatch` with the fact of the one edit, and the edit's record in its provenance."""
        (edit,) = edits
        empty = self._empty
        states = text_states(self.model, edit.text, empty.rule.layer).cpu()  # [tokens, d]
        with torch.no_grad():
            vectors, weights = empty.scope.vectors(states)
        fact = ScopedFact(id=edit.id, prompt=edit.text, text=new_fact(edit), vectors=vectors, weights=weights)
        return replace(empty, facts=(fact,), provenance={**self.provenance(), "edits": [self.record(edit)]})

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, plus the digest of the network and data on its training."""
        provenance = super().provenance()
        if self._trained:
            provenance["methods"][0]["editor"] = self._trained.note
        else:
            provenance["methods"][0]["editor"] = {"digest": "untrained"}
        return provenance

    @cached_property
    def _trained(self) -> Trained[SeracNetwork, SeracManifest] | None:
        folder = _find_folder(self.config)
        if folder is None:
            return None
        return FORMAT.load_network(folder, self.model, SeracManifest, SeracManifest.build_network)

    @cached_property
    def _empty(self) -> ScopePatch:
        """The patch without edits, which has the network and the rule."""
        if self._trained is None:
            return self._make_untrained_patch()
        return self._make_trained_patch(self._trained)

    def _make_untrained_patch(self) -> ScopePatch:
        """Return the patch without edits for ``untrained``: the model itself reads the fact, without a change."""
        layer = self.config.layer
        if layer is None:
            layer = default_layer(len(self.model.blocks))
        rule = self._make_rule(network="untrained", layer=layer)
        scope = Scope.untrained(self.model.width)
        return ScopePatch(rule=rule, scope=scope, changes={}, facts=(), provenance=self.provenance())

    def _make_trained_patch(self, trained: Trained[SeracNetwork, SeracManifest]) -> ScopePatch:
        """Return the patch without edits, with the classifier and the changes of a trained network."""
        rule = self._make_rule(network=trained.digest, layer=trained.manifest.layer)
        scope = trained.network.scope.to("cpu")
        changes = dict[str, Pair]()
        for name, (left, right) in trained.network.changes.items():
            changes[name] = left.detach().cpu(), right.detach().cpu()
        return ScopePatch(rule=rule, scope=scope, changes=changes, facts=(), provenance=self.provenance())

    def _make_rule(self, *, network: str, layer: int) -> ScopeRule:
        """Return the rule of the patch; ``network`` identifies the trained network."""
        self.model.block(layer)  # raises early if the model has no such layer
        marker = find_marker(self.model.tokenizer, name=self.model.name)
        return ScopeRule(
            network=network,
            layer=layer,
            marker=marker.id,
            marker_text=marker.text,
            threshold=self.config.threshold,
        )


def _find_folder(config: SeracConfig) -> Path | None:
    """Return the folder of the trained network; None with ``untrained``. Refuse both or neither of the two."""
    instead = "let the model itself read the fact, before the edit's own prompt"
    return FORMAT.find_folder(config.network, untrained=config.untrained, instead=instead)
