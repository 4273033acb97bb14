"""AlphaEdit: what other keys are answered stays, and what earlier batches wrote stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kg_edit.methods.alphaedit.method import AlphaEdit
from kg_edit.patches.base import Patch, PatchStack
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.methods.memit.joint import BARE, EDITS, change, joint, moment, state_at
from tests.kg_edit.tiny import tiny


@pytest.mark.slow
def test_outputs_for_the_keys_of_c_do_not_change() -> None:
    """D C is nothing, though C has half of all directions; with MEMIT it is much."""
    model = tiny("llama")
    for method, least, most in (
        (joint("alphaedit", model), 0.0, 1e-5),
        (joint("memit", model, mom2_weight=1.0), 1e-2, 1e9),
    ):
        patch = method.edit(EDITS)
        for layer in (1, 2):
            update = change(patch, model, layer)
            covariance = moment(update.shape[1], seed=layer, rank=update.shape[1] // 2).moment
            assert least <= (update @ covariance).norm() / (update.norm() * covariance.norm()) <= most


def test_edit_in_free_directions_reaches_z() -> None:
    model = tiny("llama")
    patch = joint("alphaedit", model, contexts=BARE, ridge=1e-6).edit(EDITS[:1])
    assert isinstance(patch, WeightPatch)
    z = patch.state["value"][:, 0]
    with patch.applied(model):
        *_, edited = state_at(model, EDITS[0], 2)
    assert (edited - z).norm() < 1e-3 * z.norm()


@pytest.mark.slow
def test_second_batch_keeps_the_values_of_the_first() -> None:
    """As the first batch's keys are in the state; without them, or with MEMIT, the second one moves its values."""
    model = tiny("llama")
    moved = {}
    for method in (
        joint("alphaedit", model, contexts=BARE, ridge=1e-4),
        joint("memit", model, contexts=BARE, mom2_weight=1e-4, remember=0.0),
    ):
        first = method.edit(EDITS[:1])
        assert isinstance(first, WeightPatch)
        forgetful = replace(first, state={})
        moved[method.name] = value_moved(method.edit(EDITS[1:], before=first), first)
        moved[f"{method.name}, forgetful"] = value_moved(method.edit(EDITS[1:], before=forgetful), first)
    assert moved["alphaedit"] < 1e-3 < 0.1 * moved["alphaedit, forgetful"]
    assert moved["memit"] > 30 * moved["alphaedit"]
    assert moved["memit"] == moved["memit, forgetful"]


def value_moved(second: Patch, first: WeightPatch) -> float:
    """How far layer 1 answers the first edit's key otherwise than the first batch made it, relative to that."""
    model = tiny("llama")
    with first.applied(model):
        key, *_ = state_at(model, EDITS[0], 1)
    return float((change(second, model, 1) @ key).norm() / (change(first, model, 1) @ key).norm())


@pytest.mark.slow
def test_saved_state_has_the_keys_of_all_batches(tmp_path: Path) -> None:
    model = tiny("llama")
    method = joint("alphaedit", model)
    first = method.edit(EDITS[:2])
    both = method.edit(EDITS[2:], start=first)
    assert isinstance(both, WeightPatch)
    name = f"key/{model.weight_name(1)}"
    assert both.state[name].shape == (48, 3) and both.state["value"].shape == (32, 3)
    kept = Patch.load(first.save(tmp_path / "first.safetensors"))
    again = method.edit(EDITS[2:], start=kept)
    torch.testing.assert_close(change(again, model, 2), change(both, model, 2))
    stacked = PatchStack((kept,))
    torch.testing.assert_close(change(method.edit(EDITS[2:], before=stacked), model, 2), rest(both, first, 2))


def rest(both: Patch, first: Patch, layer: int) -> Tensor:
    model = tiny("llama")
    return change(both, model, layer) - change(first, model, layer)


@pytest.mark.slow
def test_runs_of_one_method_share_no_keys() -> None:
    model = tiny("llama")
    method = joint("alphaedit", model)
    assert isinstance(method, AlphaEdit)
    before = method.edit(EDITS[1:])
    method.edit(EDITS[:1], start=before)
    torch.testing.assert_close(change(method.edit(EDITS[1:]), model, 1), change(before, model, 1), rtol=0, atol=0)
    assert method.null_space(1) is method.null_space(1)
