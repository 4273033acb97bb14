"""ROME, MEMIT and EMMET with restrained updates; COMEBA as an example of another method that is restrained alike."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.adapter_patch import AdapterPatch
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.comeba.adapter import GatedUpdate
from kg_edit.zoo.comeba.method import Comeba, ComebaConfig
from kg_edit.zoo.restrained.bounds import find_principal_directions, remove_principal
from kg_edit.zoo.restrained.method import Restrained, RestrainedConfig
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

FIRST = Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Los Angeles Lakers")
SECOND = Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome")


class RestrainedComebaConfig(RestrainedConfig, ComebaConfig):
    """COMEBA's settings, and the bounds."""


class RestrainedComeba(Restrained, Comeba):
    """COMEBA with restrained updates."""

    config_class = RestrainedComebaConfig
    config: RestrainedComebaConfig


def restrained(name: str, model: LanguageModel, **settings: Any) -> Restrained:
    chosen = RestrainedComeba if name == "comeba" else find_method(name)
    assert issubclass(chosen, Restrained)
    config = chosen.config_class.preset("default", {**QUICK[name], "sphere": 0.0, **settings})
    return chosen(model, config)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", keep_first(["rome", "memit", "emmet"]))
def test_without_bounds_the_edit_is_that_of_the_method(name: str) -> None:
    """Under the method's own defaults and presets, too."""
    model = tiny("llama")
    method = find_method(name)
    plain = method(model, method.config_class.preset("default", QUICK[name])).edit([FIRST])
    bounded = restrained(f"restrained-{name}", model).edit([FIRST])
    assert isinstance(plain, WeightPatch) and isinstance(bounded, WeightPatch)
    for weight, update in plain.factors.items():
        assert torch.equal(update.product, bounded.factors[weight].product)

    for preset in ("default", "fast", "paper"):
        own = method.config_class.preset(preset, method=name).model_dump()
        theirs = find_method(f"restrained-{name}").config_class.preset(preset).model_dump()
        assert own.items() <= theirs.items()


def test_edits_of_one_call_share_the_principal_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decomposition of the weight takes longer than an edit in a large model."""
    model = tiny("llama")
    weights = list[Tensor]()

    def counted(weight: Tensor) -> Tensor:
        weights.append(weight)
        return find_principal_directions(weight)

    monkeypatch.setattr("kg_edit.zoo.restrained.method.find_principal_directions", counted)
    patches = restrained("restrained-rome", model, sphere=0.8).edit_each([FIRST, SECOND])
    free_patches = Rome(model, RomeConfig.preset("default", QUICK["rome"])).edit_each([FIRST, SECOND])
    name = model.weight_name(1)
    for patch, freely in zip(patches, free_patches, strict=True):
        assert isinstance(patch, WeightPatch) and isinstance(freely, WeightPatch)
        expected = remove_principal(find_principal_directions(weights[0]), freely.factors[name].right, strength=0.8)
        torch.testing.assert_close(patch.factors[name].right, expected)
    assert len(weights) == 1


@pytest.mark.parametrize("name", keep_first(("restrained-memit", "restrained-rome", "restrained-emmet"), keep=2))
def test_rect_writes_a_share_of_the_elements(name: str, tmp_path: Path) -> None:
    model = tiny("llama")
    full = restrained(name, model).edit([FIRST])
    part = restrained(name, model, rect=0.4).edit([FIRST])
    part = Patch.load(part.save(tmp_path / "part.safetensors"))
    assert isinstance(full, WeightPatch) and isinstance(part, WeightPatch)
    change = part.factors[model.weight_name(1)].product
    written = change != 0
    assert int(written.sum()) == round(0.4 * change.numel())
    torch.testing.assert_close(change[written], full.factors[model.weight_name(1)].product[written])
    if name == "restrained-rome":
        assert part.edits[0]["norms"]["update"] == pytest.approx(float(change.norm()), rel=1e-4)
    with part.applied(model):
        pass


@pytest.mark.parametrize("name", keep_first(["restrained-rome", "restrained-memit", "comeba"]))
def test_prune_bounds_a_sequence_by_the_unedited_weight(name: str) -> None:
    """The edited weight is made smaller than the updates. No sum of two is three times as strong as they are freely."""
    shared = tiny("llama")
    model = LanguageModel.wrap(deepcopy(shared.model), shared.tokenizer, name="small")
    weight = weight_matrix(model.down_projection(1)).detach().mul_(0.05)
    largest = float(torch.linalg.matrix_norm(weight, 2))

    def strongest(base: float) -> float:
        method = restrained(name, model, prune=base)
        patch: Patch = method.edit([FIRST])
        patch = patch + method.edit([SECOND], before=patch)
        weight_name = model.weight_name(1)
        if isinstance(patch, AdapterPatch):
            adapter = patch.adapters["comeba", weight_name]
            assert isinstance(adapter, GatedUpdate)
            return float(torch.linalg.matrix_norm(adapter.update.product, 2))
        assert isinstance(patch, WeightPatch)
        return float(torch.linalg.matrix_norm(patch.factors[weight_name].product, 2))

    freely = strongest(0.0)
    assert 0.99 * largest < strongest(1e12) < largest + math.log(3 * freely / largest) / math.log(1e12) < freely
