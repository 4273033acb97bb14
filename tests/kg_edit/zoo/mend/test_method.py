"""MEND as a method: which editor it takes, what its patch is, and what a batch is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.mend.gradients import gradient_factors, mlp_weights
from kg_edit.zoo.mend.method import Mend, MendConfig
from kg_edit.zoo.mend.training import train
from tests.kg_edit.methods.test_methods import EDIT, SECOND
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.mend.examples import edits, quick


def method(model: LanguageModel, **settings: Any) -> Mend:
    return Mend(model, MendConfig.preset("default", settings))


def patch_of(chosen: Mend, *requested: Any) -> WeightPatch:
    patch = chosen.edit(requested or (EDIT,))
    assert isinstance(patch, WeightPatch)
    return patch


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with an editor for the tiny Llama."""
    folder = tmp_path_factory.mktemp("editor")
    train(tiny("llama"), edits(), quick(steps=2), folder, progress=False)
    return str(folder)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_untrained_edit_is_a_step_of_gradient_descent(family: str) -> None:
    model = tiny(family)
    patch = patch_of(method(model, untrained=True, edit_lr=0.25, blocks=2))
    names = mlp_weights(model, 2)
    with keep_untouched(model):
        factors, loss = gradient_factors(model, model.encode(EDIT.text, target=EDIT.target_new), names)
    assert set(patch.factors) == set(names)
    for name, (inputs, deltas) in factors.items():
        torch.testing.assert_close(patch.factors[name].product, -0.25 * deltas.T @ inputs, rtol=1e-5, atol=1e-8)
    assert patch.edits[0]["nll_before"] == pytest.approx(loss, abs=1e-5)
    assert patch.provenance["methods"][0]["editor"] == {"digest": "untrained"}


@pytest.mark.slow
def test_patch_has_the_editors_weights_ranks_and_note(editor: str) -> None:
    """Another change than the plain step, of the editor's weights, with a rank of one a token that the loss feels."""
    model = tiny("llama")
    patch, prompt = patch_of(method(model, network=editor)), model.encode(EDIT.text, target=EDIT.target_new)
    assert set(patch.factors) == set(mlp_weights(model, 2))
    ranks = {name: pair.rank for name, pair in patch.factors.items()}
    assert ranks["model.layers.2.mlp.up_proj.weight"] == len(prompt.ids) - 1
    assert ranks["model.layers.3.mlp.up_proj.weight"] == len(prompt.target_ids)
    note = patch.provenance["methods"][0]["editor"]
    assert len(note["digest"]) == 64 and note["steps"] in (0, 2) and note["examples"] == 14
    for name, pair in patch.factors.items():
        assert patch.edits[0]["norms"][name] == pytest.approx(float(pair.product.norm()), rel=1e-4)


def test_strength_scales_the_change(editor: str) -> None:
    model = tiny("llama")
    full, half = (patch_of(method(model, network=editor, strength=strength)) for strength in (1.0, 0.5))
    for name, pair in full.factors.items():
        torch.testing.assert_close(half.factors[name].product, 0.5 * pair.product)


def test_batch_is_the_sum_of_its_edits(editor: str) -> None:
    """Each gradient is that of the model before the batch."""
    chosen = method(tiny("llama"), network=editor)
    both, first, second = (patch_of(chosen, *batch) for batch in ((EDIT, SECOND), (EDIT,), (SECOND,)))
    for name, pair in both.factors.items():
        torch.testing.assert_close(pair.product, first.factors[name].product + second.factors[name].product)
    assert [edit["edit"]["id"] for edit in both.edits] == ["1", "2"]


def test_large_batch_is_summed_once(editor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sum for all edits: a sum after each edit multiplied whole matrices again and again."""
    chosen, few = method(tiny("llama"), network=editor), edits()[::3]
    many = [
        *few,
        *(edit.model_copy(update={"id": f"{edit.id} again", "prompt": "The capital of {} is"}) for edit in few),
    ]
    each = [patch_of(chosen, edit) for edit in many]
    monkeypatch.setattr(Factors, "__add__", None)
    batch = patch_of(chosen, *many)
    for name, pair in batch.factors.items():
        torch.testing.assert_close(pair.product, sum(p.factors[name].product for p in each))
    dense = [name for name, pair in batch.factors.items() if pair.rank < sum(p.factors[name].rank for p in each)]
    assert dense and all(batch.factors[name].rank == min(batch.factors[name].shape) for name in dense)
