"""The files of trained networks: what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kg_edit.errors import ConfigError, ModelError
from kg_edit.methods import find_method
from kg_edit.zoo.mend.network import FORMAT, MendManifest, MendTraining
from kg_edit.zoo.trained.files import NETWORK
from tests.kg_edit.tiny import tiny
from tests.peak_memory import adds_at_most


def manifest() -> MendManifest:
    model = tiny("llama")
    shapes = {"model.layers.3.mlp.down_proj.weight": (32, 128)}
    training = MendTraining(rank=4)
    return MendManifest(model=model.fingerprint, model_name="tiny", shapes=shapes, training=training)


def test_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    network = manifest().build_network()
    FORMAT.write(tmp_path / NETWORK, network.state_dict(), manifest())
    trained = FORMAT.trained(tmp_path, tiny("llama"), MendManifest, MendManifest.build_network)
    assert trained.manifest == manifest()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in trained.network.state_dict().items())


@pytest.mark.parametrize("name", ["ke", "malmen", "mend", "rledit", "serac"])
def test_missing_network_names_the_command(name: str, tmp_path: Path) -> None:
    """Before a model is loaded: without the setting, with two that exclude each other, and with an empty folder."""
    method = find_method(name)
    for settings, error in (
        ({}, ConfigError),
        ({"network": str(tmp_path), "untrained": True}, ConfigError),
        ({"network": str(tmp_path)}, ModelError),
    ):
        with pytest.raises(error, match=f"kg-edit {name} train"):
            method.check_inputs(method.config_class.preset("default", settings), None, ())


def test_later_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    metadata = json.dumps({"version": 2, "manifest": {}})
    save_file({"a": torch.zeros(1)}, tmp_path / NETWORK, {FORMAT.key: metadata})
    with pytest.raises(
        ModelError, match="has version 2 of its format, and this kg-edit reads version 1; update kg-edit"
    ):
        FORMAT.manifest(tmp_path / NETWORK, MendManifest)


def test_network_of_another_size_is_refused_before_memory_is_used(tmp_path: Path) -> None:
    wide = manifest().model_copy(update={"training": MendTraining(rank=1_000_000)})
    FORMAT.write(tmp_path / NETWORK, manifest().build_network().state_dict(), wide)
    model = tiny("llama")
    with adds_at_most(100), pytest.raises(ModelError, match=r"has the shape .*, expected \("):
        FORMAT.trained(tmp_path, model, MendManifest, MendManifest.build_network)
