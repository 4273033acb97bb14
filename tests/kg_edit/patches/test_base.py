"""Patches of weights: reversible bit for bit, one at a time, saved and read, refused for other models."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.tiny import same_weights, tiny, weights_of


def patch_of(model: LanguageModel, *, seed: int = 0) -> Patch:
    rows, columns = weight_matrix(model.down_projection(1)).shape
    draw = torch.Generator().manual_seed(seed)
    factors = Factors(left=torch.randn(rows, 1, generator=draw), right=torch.randn(columns, 1, generator=draw))
    provenance = {"model": {"name": model.name, "fingerprint": model.fingerprint}, "edits": [{"seed": seed}]}
    return WeightPatch(factors={model.weight_name(1): factors}, provenance=provenance)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_applied_adds_the_product_and_restores_bit_for_bit(family: str) -> None:
    """Also after an exception. GPT-2 stores its weight transposed."""
    model = tiny(family)
    before, patch = weights_of(model), patch_of(model)
    (pair,) = patch.factors.values()
    clean = weight_matrix(model.down_projection(1)).clone()
    with pytest.raises(RuntimeError, match="stop"), patch.applied(model):
        torch.testing.assert_close(weight_matrix(model.down_projection(1)), clean + pair.left @ pair.right.T)
        assert not same_weights(model, before)
        raise RuntimeError("stop")
    assert same_weights(model, before)
    with patch.applied(model):
        pass  # the model is free again


def test_second_patch_on_a_model_is_an_error_that_changes_nothing() -> None:
    model = tiny("llama")
    before, first, second = weights_of(model), patch_of(model), patch_of(model, seed=1)
    with first.applied(model):
        within = weights_of(model)
        with pytest.raises(PatchError, match="already applied to this model"):
            second.applied(model).__enter__()
        with pytest.raises(PatchError, match="already applied to this model"):
            first.merge_into(model)
        assert same_weights(model, within)
    assert same_weights(model, before)


def test_patch_and_its_inverse_cancel() -> None:
    model = tiny("gpt2")
    first, second = patch_of(model), patch_of(model, seed=1)
    both = first + second
    (pair,) = both.factors.values()
    assert pair.rank == 2
    assert [edit["seed"] for edit in both.provenance["edits"]] == [0, 1]
    clean = weight_matrix(model.down_projection(1)).clone()
    with (both + -second).applied(model):
        (only,) = first.factors.values()
        torch.testing.assert_close(weight_matrix(model.down_projection(1)), clean + only.left @ only.right.T)


def test_merge_changes_the_weights_and_the_fingerprint(tmp_path: Path) -> None:
    """The same patch a second time would overshoot, so it is refused; a patch of the merged model fits it alone."""
    model = copy.deepcopy(tiny("qwen3"))
    before, in_chat = weights_of(model), replace(model, asked_in=None)
    first, second = patch_of(model), patch_of(model, seed=1)
    first.merge_into(model)
    assert not same_weights(model, before)
    for again in (first, second, -first):
        with pytest.raises(PatchMismatchError, match=r"before a patch was merged into it.*load the model again"):
            again.merge_into(model)
        with pytest.raises(PatchMismatchError, match="before a patch was merged into it"), again.applied(in_chat):
            pass
    later = patch_of(model, seed=2)
    with later.applied(model):
        pass
    with pytest.raises(PatchMismatchError, match="different models"):
        first + later

    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    assert LanguageModel.load(tmp_path).fingerprint == model.fingerprint != tiny("qwen3").fingerprint


def test_merge_of_a_change_that_the_fingerprint_does_not_read_counts_too() -> None:
    model = copy.deepcopy(tiny("llama"))
    rows, columns = weight_matrix(model.down_projection(1)).shape
    element = Factors(left=torch.eye(rows)[:, :1], right=torch.eye(columns)[:, 1:2])  # the element (0, 1) alone
    patch = WeightPatch(factors={model.weight_name(1): element}, provenance=patch_of(model).provenance)
    patch.merge_into(model)
    with pytest.raises(PatchMismatchError, match="before a patch was merged"):
        patch.merge_into(model)


def test_weight_patch_is_saved_and_read(tmp_path: Path) -> None:
    model = tiny("llama")
    patch = patch_of(model)
    path = patch.save(tmp_path / "new" / "patch.safetensors")
    again = Patch.load(path)
    assert again.provenance == patch.provenance
    for name, pair in patch.factors.items():
        assert torch.equal(again.factors[name].left, pair.left)
        assert torch.equal(again.factors[name].right, pair.right)
    assert path.read_bytes() == again.save(tmp_path / "again.safetensors").read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["patch.safetensors"], "no scratch file is left"


def test_weights_may_share_a_factor(tmp_path: Path) -> None:
    model, left = tiny("llama"), torch.ones(32, 1)
    factors = {model.weight_name(layer): Factors(left=left, right=torch.ones(48, 1)) for layer in (1, 2)}
    again = Patch.load(WeightPatch(factors=factors).save(tmp_path / "patch.safetensors"))
    assert isinstance(again, WeightPatch)
    assert all(torch.equal(pair.left, left) for pair in again.factors.values()) and len(again.factors) == 2


def test_scale_is_recorded_with_each_edit() -> None:
    first, second = patch_of(tiny("gpt2")), patch_of(tiny("gpt2"), seed=1)
    once = -first
    twice = -once
    assert [edit.get("scale", 1) for edit in (first - second).provenance["edits"]] == [1, -1]
    assert [edit["scale"] for edit in twice.provenance["edits"]] == [1]
    assert [edit["scale"] for edit in first.scaled(0.5).provenance["edits"]] == [0.5]


def test_applied_without_a_with_statement_warns_at_its_line(recwarn: pytest.WarningsRecorder) -> None:
    model = tiny("llama")
    patch = patch_of(model)
    with patch.applied(model):
        pass
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match=r"with patch\.applied\(model\) as edited") as warned:
        patch.applied(model)
    assert warned[0].filename == __file__
