"""The files of trained networks: what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kg_edit.errors import ModelError
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
    trained = FORMAT.load_network(tmp_path, tiny("llama"), MendManifest, MendManifest.build_network)
    assert trained.manifest == manifest()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in trained.network.state_dict().items())


def test_network_of_another_size_is_refused_before_memory_is_used(tmp_path: Path) -> None:
    wide = manifest().model_copy(update={"training": MendTraining(rank=1_000_000)})
    FORMAT.write(tmp_path / NETWORK, manifest().build_network().state_dict(), wide)
    model = tiny("llama")
    with adds_at_most(100), pytest.raises(ModelError, match=r"has the shape .*, expected \("):
        FORMAT.load_network(tmp_path, model, MendManifest, MendManifest.build_network)
