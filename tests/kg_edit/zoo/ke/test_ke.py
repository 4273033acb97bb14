"""KE: the network starts as a step of gradient descent, and learns under its bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.methods.statement import encode_statement
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.ke.method import Ke, KeConfig
from kg_edit.zoo.ke.network import FORMAT, KeManifest, KeNetwork, KeTraining, embedding_width
from kg_edit.zoo.ke.training import train
from kg_edit.zoo.mend.examples import BatchOrder
from kg_edit.zoo.mend.gradients import gradient_factors, mlp_weights, weight_shapes
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.mend.examples import edits


def quick(**settings: Any) -> KeTraining:
    small = {"blocks": 2, "hidden": 4, "inner": 4, "steps": 6, "batch": 4, "validation": 4}
    fast = {"learning_rate": 0.02, "validate_every": 2, "texts": 3, "text_tokens": 4}
    return KeTraining.preset("default", {**small, **fast, **settings})


def manifest_of(out: Path, **settings: Any) -> KeManifest:
    return train(tiny("llama"), edits(), quick(**settings), out, progress=False, checkpoint_seconds=0.0)


def fresh(model: LanguageModel, edit_lr: float) -> KeNetwork:
    shapes = weight_shapes(model, mlp_weights(model, 1))
    return KeNetwork(shapes, width=embedding_width(model), hidden=3, inner=3, edit_lr=edit_lr)


def test_network_starts_as_a_step_of_gradient_descent() -> None:
    """sigmoid(eta) = the rate, m softmax(0) = 1, gamma = -1: the change is -rate times the gradient."""
    model, edit = tiny("llama"), edits()[0]
    network = fresh(model, 0.25)
    with keep_untouched(model):
        prompt = encode_statement(model, edit, method="ke")
        gradient, _ = gradient_factors(model, prompt, list(network.shapes))
        factors = network.condition_on(model, [prompt]).compute_factors(gradient)
    for name, (inputs, deltas) in gradient.items():
        torch.testing.assert_close(factors[name].product, -0.25 * deltas.T @ inputs, rtol=1e-4, atol=1e-7)


def test_gate_and_shift_by_hand() -> None:
    """One weight [2, 1], one token: u = 3, d = [1, 2]; alpha opens the first output alone, beta the second."""
    network = KeNetwork({"w": (2, 1)}, width=1, hidden=1, inner=1, edit_lr=0.5)
    with torch.no_grad():
        head = network.heads[0]
        head.bias.copy_(torch.tensor([50.0, -50.0, -50.0, 50.0, 10.0, 7.0, 0.0]))
    gradients = {"w": (torch.tensor([[[3.0]]]), torch.tensor([[[1.0, 2.0]]]))}
    left, right = network.compute_changes(gradients, torch.zeros(1, 1))["w"]
    change = left[0].T @ right[0]
    # 0.5 (2 * 1 * 10 * 3, 2 * 7): the gate doubles the output that it leaves
    torch.testing.assert_close(change, torch.tensor([[30.0], [7.0]]))


@pytest.mark.slow
def test_encodings_differ_by_edit_and_not_by_batch() -> None:
    """Two edits of one gradient get changes of their own once the heads are trained."""
    model = tiny("llama")
    network = fresh(model, 0.25)
    prompts = [encode_statement(model, edit, method="ke") for edit in edits()[:2]]
    first, second = network.read(network.condition_on(model, prompts).embeddings)
    assert not torch.allclose(first, second)
    alone = network.read(network.condition_on(model, prompts[:1]).embeddings)[0]
    torch.testing.assert_close(alone, first, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_network_edits(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, steps=12, validate_every=4)
    totals = [validation.total for validation in manifest.validations]
    assert min(totals) < totals[0]
    patch = Ke(tiny("llama"), KeConfig(network=str(tmp_path))).edit(edits()[::3][:2])
    assert isinstance(patch, WeightPatch)
    (method,) = patch.provenance["methods"]
    assert (
        method["editor"]["digest"]
        == FORMAT.load_network(tmp_path, tiny("llama"), KeManifest, KeManifest.build_network).digest
    )
    assert method["editor"]["steps"] == manifest.steps


@pytest.mark.slow
def test_multiplier_rises_while_the_bound_is_exceeded(tmp_path: Path) -> None:
    manifest_of(tmp_path / "low", steps=2, validate_every=1, margin=0.0, multiplier_rate=1e3, edit_lr=0.5)
    manifest_of(tmp_path / "high", steps=2, validate_every=1, margin=1e3, multiplier_rate=1e3)
    low, high = (
        FORMAT.load_network(tmp_path / name, tiny("llama"), KeManifest, KeManifest.build_network)
        for name in ("low", "high")
    )
    assert low.manifest.steps == 0 or float(low.network.multiplier) > 1
    assert high.manifest.steps == 0 or float(high.network.multiplier) == 0


def test_few_edits_are_enough() -> None:
    """MEND measures the factors of 128 edits before it starts; KE does not."""
    settings = KeTraining(validation=4, batch=4)
    assert settings.normalise_on == 128
    assert len(BatchOrder.of(tiny("llama"), edits(), settings).examples) == 14
