"""MALMEN as a method: what its patch is, what a batch is, which network it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.malmen.method import Malmen, MalmenConfig
from kg_edit.zoo.malmen.network import FORMAT, MalmenManifest
from kg_edit.zoo.malmen.training import Passes, train
from kg_edit.zoo.mend.gradients import gradient_factors, mlp_weights
from tests.kg_edit.methods.test_methods import EDIT, SECOND
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.malmen.examples import apart, quick
from tests.kg_edit.zoo.mend.test_method import patch_of


def method(model: LanguageModel, **settings: Any) -> Malmen:
    return Malmen(model, MalmenConfig.preset("default", settings))


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a network for the tiny Llama."""
    folder = tmp_path_factory.mktemp("editor")
    train(tiny("llama"), apart(), quick(steps=2), folder, progress=False)
    return str(folder)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_untrained_batch_is_a_step_of_gradient_descent_fitted_together(family: str) -> None:
    """(K^T K + I) shift = K^T D with D = -edit_lr |k|^2 g, over the target's tokens of both edits."""
    model, pairs = tiny(family), []
    patch = patch_of(method(model, untrained=True, edit_lr=0.25, blocks=2), EDIT, SECOND)
    names = mlp_weights(model, 2)
    for edit in (EDIT, SECOND):
        prompt = model.encode(edit.text, target=edit.target_new)
        with keep_untouched(model):
            factors, _ = gradient_factors(model, prompt, names)
        pairs.append({name: [part[-len(prompt.target_ids) :].double() for part in factors[name]] for name in names})
    assert set(patch.factors) == set(names)
    for name in names:
        keys, gradients = (torch.cat([pair[name][part] for pair in pairs]) for part in (0, 1))
        differences = -0.25 * keys.square().sum(1, keepdim=True) * gradients
        shift = torch.linalg.solve(keys.T @ keys + torch.eye(keys.shape[1]), keys.T @ differences)
        torch.testing.assert_close(patch.factors[name].product.double(), shift.T, rtol=1e-3, atol=1e-7)
    assert patch.provenance["methods"][0]["editor"] == {"digest": "untrained"}


def test_edit_reads_what_the_training_reads(editor: str) -> None:
    """One prompt at a time at the edit, padded rows in the training: the same keys and gradients."""
    model = tiny("llama")
    patch = patch_of(method(model, network=editor), EDIT, SECOND)
    network = FORMAT.load_network(Path(editor), model, MalmenManifest, MalmenManifest.build_network).network
    prompts = [model.encode(edit.text, target=edit.target_new) for edit in (EDIT, SECOND)]
    with keep_untouched(model):
        joint = Passes(model=model, names=[*network.shapes]).gradients_at_targets(prompts)
    for name, pair in network.compute_factors(joint).items():
        assert patch.factors[name].rank == pair.rank == sum(len(prompt.target_ids) for prompt in prompts)
        torch.testing.assert_close(patch.factors[name].product, pair.product, rtol=1e-3, atol=1e-6)


def test_record_has_its_edits_share(editor: str) -> None:
    """The shares add up to the update; of a single edit the share is all of it."""
    chosen = method(tiny("llama"), network=editor)
    alone, both = patch_of(chosen), patch_of(chosen, EDIT, SECOND)
    for name, pair in alone.factors.items():
        assert alone.edits[0]["norms"][name] == pytest.approx(float(pair.product.norm()), rel=1e-4)
    for name, pair in both.factors.items():
        shares = [record["norms"][name] for record in both.edits]
        assert abs(shares[0] - shares[1]) - 1e-5 <= float(pair.product.norm()) <= sum(shares) + 1e-5
    assert both.edits[0]["nll_before"] == alone.edits[0]["nll_before"]
