"""The method glame-net: GLAME with an R-GNN trained once (`kg-edit glame-net train`); an edit costs one pass of it.

    m* = m + f(subgraph, m)  [d]

where f is `ValueNetwork`. With ``steps`` = 0, this value is written, as in ROME (`RankOneMethod`): there is no descent,
and the blocks above the edited one run only for the one gradient that a network may read. With ``steps`` > 0, it is the
starting point of the descent of `glame-plus`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.graphs.encoding import label_readings
from kg_edit.graphs.source import SubgraphSource, check_graph
from kg_edit.locate_then_edit.descent import DeltaParameters, Descent, FreeDelta
from kg_edit.locate_then_edit.objective import Objective, Request, tokens_within
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.glame_net.network import (
    FORMAT,
    GraphBatch,
    NetManifest,
    NetTraining,
    ReadSubgraph,
    ValueNetwork,
    load_net,
)
from kg_edit.methods.glame_plus.answers import AnswerOptions
from kg_edit.methods.glame_plus.method import GlamePlus, GlamePlusConfig
from kg_edit.methods.glame_plus.questions import excluded_answers, objects_of
from kg_edit.methods.rome.method import FAST, EditValue
from kg_edit.methods.trained.files import NETWORK, Trained
from kg_edit.models.hooks import untouched
from kg_edit.storage.run_folder import NAMES_A_FILE


class GlameNetConfig(GlamePlusConfig):
    """Settings of the network's folder and of the descent; all other settings are stored with the trained network."""

    network: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="folder of a trained network, written by kg-edit glame-net train --out FOLDER",
    )
    untrained: bool = Field(False, description="use no network: the change starts at 0, as in glame-plus")
    steps: int = Field(
        5, ge=0, description="maximum number of evaluations of glame-plus's objective after the network; 0: none"
    )

    further_steps: NonNegativeInt = Field(
        0, description="maximum of further evaluations until the target is predicted in each context"
    )
    hold: float = Field(0.0, ge=0, description="weight of the keys of the prompts' other tokens; C has 1")
    answers: AnswerOptions | None = Field(
        None, description="settings for writing what follows into a late block; null: the value at s has it"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {"fast": FAST}

    def idle(self) -> dict[str, str]:
        """As in `glame-plus`; without a descent also the number of recalled relations."""
        recalled = {"recalled": "with steps=0 no question is asked"}
        return super().idle() | ({} if self.steps or self.answers is None else recalled)


class GlameNet(GlamePlus):
    """m* = m + f(subgraph, m), f trained once over many edits."""

    name = "glame-net"
    paper = "this project (docs/glame.md), after Zhang et al., EMNLP 2024, arXiv 2402.13593"
    about = "GLAME with an R-GNN trained once: an edit takes one pass of it, and a short descent"
    config_class = GlameNetConfig
    config: GlameNetConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that the trained network can be read.

        Raises:
            ConfigError: neither ``network`` nor ``untrained`` is set, or both are.
            ModelError: the folder has no network, or its file is damaged.
        """
        assert isinstance(config, GlameNetConfig)  # noqa: S101 - config_class
        if folder := _folder(config):
            FORMAT.manifest(folder / NETWORK, NetManifest)
        super().check_inputs(config, graph, edits)

    def prepare(self) -> None:
        """Load the network, then prepare as `glame-plus` does.

        Raises:
            ConfigError, ModelError: as `check_inputs`, or the network was trained for another layer.
            PatchMismatchError: the network was trained for another model.
        """
        _ = self._trained
        super().prepare()

    def request(self, edit: Edit) -> Request:
        """Return, with a descent, the request of `glame-plus`; without one, only the edit's own prompts."""
        check_graph(self.subgraph(edit))
        return super().request(edit) if self.config.steps else Request.of(self.model, edit, self.contexts)

    def proposal(self, edit: Edit, value: Tensor) -> tuple[DeltaParameters, dict[str, Any]]:
        """Return f(subgraph, m) as the starting point, and notes with the number of statements that were read."""
        trained = self._trained
        settings = trained.manifest.training if trained else NetTraining()
        # The part of the subgraph that the network reads is selected as in its training.
        objects = objects_of(edit, self.subgraph(edit), exclude=excluded_answers(edit, self.config, self.graph))
        read = ReadSubgraph.of(edit, objects, statements=settings.statements, per_relation=settings.per_relation)
        change = torch.zeros_like(value)  # [d]
        if trained:
            labels, device = [*read.nodes, *read.edges], self.model.device
            with torch.no_grad():
                readings = label_readings(self.model, labels, layers=trained.manifest.reading_layers)
                graph = GraphBatch.of([read], readings.__getitem__)
                downhill = self._gradients[edit][None].to(device) if trained.network.reads_gradient else None
                change = trained.network(graph, value[None].to(device), downhill)[0].to(value.device)
        notes = {"graph": dict(self.subgraph(edit).graph), "read": len(read.statements)}
        return FreeDelta(value, self.config, start=change), notes

    def find_values(self, edits: Sequence[Edit], requests: Sequence[Request]) -> list[EditValue]:
        """Find m* of each edit: with ``steps`` = 0 the network's value itself, else a descent from there."""
        if self.config.steps or not edits:
            return super().find_values(edits, requests)
        with untouched(self.model), torch.no_grad():
            states = self.clean_states(requests)  # no block above the edited one runs
            proposals = self.proposals(edits, requests, states[0])
        return [
            EditValue(
                request=request,
                clean=clean,
                bare_key=bare_key,
                mean_key=mean_key,
                descent=Descent(change=parameters.change().detach(), losses=()),
                notes=notes,
            )
            for request, clean, bare_key, mean_key, (parameters, notes) in zip(
                requests, *states, proposals, strict=True
            )
        ]

    def proposals(
        self, edits: Sequence[Edit], requests: Sequence[Request], values: Tensor
    ) -> list[tuple[DeltaParameters, dict[str, Any]]]:
        """Return `proposal` of each edit, after the gradients that the network reads, for all edits together."""
        self._gradients.clear()
        if self._trained and self._trained.network.reads_gradient:
            with torch.enable_grad():
                self._gradients.update(zip(edits, self._downhill(requests), strict=True))
        return super().proposals(edits, requests, values)

    @cached_property
    def _gradients(self) -> dict[Edit, Tensor]:
        return {}

    def _downhill(self, requests: Sequence[Request]) -> Tensor:
        """Return g = -dL_p/dm* at m* = m in the bare prompts, [edits, d]."""
        bare = [Request(rewrites=request.rewrites[:1]) for request in requests]
        tokens = tokens_within(self.model, self.layer, self.memory)
        objective = Objective(self.model, self.layer, bare, kl_weight=0.0, tokens=tokens)
        return -objective.gradient(torch.zeros_like(objective.value))[1]

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, plus the digest of the network and data on its training."""
        found = super().provenance()
        found["methods"][0]["network"] = self._trained.note if self._trained else {"digest": "untrained"}
        return found

    @cached_property
    def _trained(self) -> Trained[ValueNetwork, NetManifest] | None:
        folder = _folder(self.config)
        if folder is None:
            return None
        found = load_net(folder, self.model)
        if found.manifest.layer != self.layer:
            raise ConfigError(
                f"the network in {folder} was trained for layer {found.manifest.layer}, but layer {self.layer} is set; "
                f"give --layer {found.manifest.layer}, or train a network for this layer: kg-edit glame-net train"
            )
        return found


def _folder(config: GlameNetConfig) -> Path | None:
    needs = "--model NAME --graph GRAPH --relations P17,P27"
    return FORMAT.folder(config.network, untrained=config.untrained, needs=needs, instead="start the descent at 0")
