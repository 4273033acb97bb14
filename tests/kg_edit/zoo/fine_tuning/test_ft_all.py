"""Fine-tuning of all weights: each matrix of the blocks has the gradient of the whole model, and nothing else moves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from kg_edit.edits.edit import Edit
from kg_edit.methods.fine_tuning.rows import RowLosses
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.fine_tuning.ft_all import FtAll, matrices_of, tuned
from tests.everyday import keep_first
from tests.kg_edit.tiny import tiny

EDIT = Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Miami Heat")


def method(model: LanguageModel, **settings: Any) -> FtAll:
    return FtAll.on(model, settings={"steps": 4, "learning_rate": 0.005, **settings})


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2"]))
def test_gradient_is_that_of_the_whole_model(family: str) -> None:
    model = tiny(family)
    chosen = method(model)
    with tuned(model, [name for layer in chosen.layers for name in matrices_of(model, layer)]) as changes:
        loss = RowLosses(model, 0, [chosen.encode_edit(EDIT)])().mean()
        gradients = torch.autograd.grad(loss, list(changes.values()))
    twin = LanguageModel.wrap(copy.deepcopy(model.model), model.tokenizer, name="twin", spec=model.spec)
    prompt = twin.encode(EDIT.text, target=EDIT.target_new)
    logits = twin.model(torch.tensor([prompt.ids])).logits[0, prompt.target_start - 1 : -1]
    cross_entropy(logits, torch.tensor(prompt.target_ids)).backward()
    for name, gradient in zip(changes, gradients, strict=True):
        weight = twin.model.get_submodule(name).weight.grad
        assert isinstance(weight, torch.Tensor)
        expected = weight.T if family == "gpt2" else weight
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_all_matrices_of_the_blocks_change() -> None:
    model = tiny("llama")
    patch = method(model).edit([EDIT])
    assert isinstance(patch, WeightPatch)
    names = [name for layer in range(len(model.blocks)) for name in matrices_of(model, layer)]
    assert list(patch.factors) == [f"{name}.weight" for name in names] and len(names) == 4 * 7
    assert all(pair.shape == tuple(weight_matrix(model.model.get_submodule(name)).shape)
               for name, pair in zip(names, patch.factors.values(), strict=True))  # fmt: skip
    assert all(float(pair.product.abs().max()) > 0 for pair in patch.factors.values())
    (record,) = patch.edits
    assert record["loss_after"] < record["loss_before"]
    upper = method(model, layers=[2, 3]).edit([EDIT])
    assert isinstance(upper, WeightPatch) and len(upper.factors) == 2 * 7
