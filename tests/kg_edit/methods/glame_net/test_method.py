"""Editing with a trained network: one pass of it, no descent; what is written is m + f(subgraph, m)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.errors import ConfigError, ModelError, PatchMismatchError
from kg_edit.graphs.controls import NoGraph
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods.glame_net.method import GlameNet, GlameNetConfig
from kg_edit.methods.glame_net.network import FORMAT, NetManifest
from kg_edit.methods.rome import method as rome_method
from kg_edit.methods.trained.files import NETWORK
from kg_edit.models.hooks import untouched, watched
from kg_edit.models.prompts import encode
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.methods.glame_net.examples import edits, graph, quick
from tests.kg_edit.tiny import tiny

EDITS = edits()[:3]
LAYER = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with weights of which something follows."""
    return written(tmp_path_factory.mktemp("net"), gradient=False)


@pytest.fixture(scope="module")
def reading_gradient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that reads the gradient as well."""
    return written(tmp_path_factory.mktemp("gradient"), gradient=True)


def written(out: Path, *, gradient: bool) -> Path:
    manifest = NetManifest.of(tiny("llama"), quick(gradient=gradient), {"examples": 36})
    network = manifest.network()
    with torch.no_grad():
        for weight in (network.outer.weight, network.direct.weight):
            weight.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    FORMAT.write(out / NETWORK, network.state_dict(), manifest)
    return out


def method(folder: Path | None, *, family: str = "llama", source: Any = None, **settings: Any) -> GlameNet:
    model = tiny(family)
    size = model.down_projection(LAYER).weight.shape
    moment = torch.eye(min(size) if family == "gpt2" else size[1])
    chosen = {"layer": LAYER, "network": str(folder) if folder else None, "steps": 0, **settings}
    return GlameNet(
        model,
        GlameNetConfig.preset("default", chosen),
        graph=source or graph(),
        contexts=("{}", "The quick brown fox. {}"),
        covariance=Covariance(moment=moment, tokens=1, ridge=0.0, id="toy"),
    )


def value_at_subject(edit: Any) -> Tensor:
    model, seen = tiny("llama"), list[Tensor]()
    prompt = encode(model.tokenizer, edit.prompt, subject=edit.subject)
    with torch.no_grad(), watched(model.down_projection(LAYER), lambda _, value: seen.append(value)):
        model.model(torch.tensor([prompt.ids]))
    return seen[0].reshape(len(prompt.ids), -1)[prompt.edited_at]


def test_written_value_is_the_networks(folder: Path) -> None:
    own, edit = method(folder), EDITS[0]
    clean = value_at_subject(edit)
    change = own.proposal(edit, clean)[0].change().detach()
    assert change.norm() > 0.01 * clean.norm()
    with own.edit([edit]).applied(tiny("llama")):
        found = value_at_subject(edit)
    assert (found - clean - change).norm() < 1e-3 * change.norm()


def test_no_loss_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rome_method, "Objective", None)
    patch = method(folder).edit(EDITS)
    assert [edit["steps"] for edit in patch.provenance["edits"]] == [0, 0, 0]
    with pytest.raises(TypeError):
        method(folder, steps=1).edit(EDITS)


def test_gradient_is_that_of_the_bare_prompt(reading_gradient: Path) -> None:
    """Against a difference quotient of -log p(o*) under the change itself."""
    own, edit = method(reading_gradient), EDITS[1]
    bare = Request(rewrites=own.request(edit).rewrites[:1])
    with untouched(own.model):
        downhill = own._downhill([own.request(edit)])[0]
    with untouched(own.model), torch.no_grad():
        loss = Objective(own.model, LAYER, [bare], kl_weight=0.0)
        step = 1e-2 * downhill / downhill.norm()
        slope = float(loss(step[None]).nll - loss(-step[None]).nll) / (2 * 1e-2)
    assert slope == pytest.approx(-float(downhill.norm()), rel=0.02)


@pytest.mark.slow
def test_descent_starts_at_the_networks_value(folder: Path) -> None:
    """The first loss that is seen is the network's; from 0 it is the unedited model's."""
    own, free = method(folder, steps=1), method(None, untrained=True, steps=1)
    parts = [one.edit(EDITS[:1]) for one in (method(folder), own, free)]
    (plain,), (first,), (zero,) = ([*patch.factors.values()] for patch in parts if isinstance(patch, WeightPatch))
    assert torch.allclose(first.product, plain.product, atol=1e-5)
    assert not zero.product.any()
    (record,) = method(folder, steps=4).edit(EDITS[:1]).provenance["edits"]
    assert record["steps"] == 4 and record["loss_after"] < record["loss_before"]


@pytest.mark.parametrize("name", ["folder", "reading_gradient"])
def test_edit_each_equals_single_edits(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    own = method(folder)
    together, alone = own.edit_each(EDITS), [method(folder).edit([edit]) for edit in EDITS]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, WeightPatch) and isinstance(other, WeightPatch)
        for name, pair in one.factors.items():
            assert torch.allclose(pair.product, other.factors[name].product, atol=1e-5)


def test_change_depends_on_the_graph(folder: Path) -> None:
    clean = value_at_subject(EDITS[0])
    right, none = (method(folder, source=source) for source in (graph(), NoGraph(graph())))
    changes = [one.proposal(EDITS[0], clean)[0].change().detach() for one in (right, none)]
    assert not torch.allclose(*changes, atol=1e-5)
    assert [one.proposal(EDITS[0], clean)[1]["read"] for one in (right, none)] == [2, 0]


def test_provenance_names_the_network(folder: Path) -> None:
    (said,) = method(folder).edit(EDITS[:1]).provenance["methods"]
    assert len(said["network"]["digest"]) == 64 and said["network"]["examples"] == 36
    assert set(said["files_sha256"]) and "network" in next(iter(said["files_sha256"]))


def test_network_of_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(
        PatchMismatchError, match=r"trained for 'tiny-llama' .* train one for this model: kg-edit glame-net"
    ):
        method(folder, family="mistral").edit(EDITS[:1])


def test_network_of_another_layer_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="was trained for layer 1, but layer 2 is set; give --layer 1"):
        method(folder, layer=2).edit(EDITS[:1])


def test_missing_network_is_an_error_that_names_the_command(tmp_path: Path) -> None:
    for settings in ({}, {"network": "there", "untrained": True}):
        config = GlameNetConfig.preset("default", settings)
        with pytest.raises(ConfigError, match="kg-edit glame-net train --model NAME --graph GRAPH"):
            GlameNet.check_inputs(config, graph(), EDITS)
    with pytest.raises(ModelError, match=r"there is no trained network: .* train one with kg-edit glame-net train"):
        GlameNet.check_inputs(GlameNetConfig.preset("default", {"network": str(tmp_path)}), graph(), EDITS)
