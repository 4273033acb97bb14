"""The factors are the gradient that autograd gives the weight; nothing of the model is touched on the way."""

from __future__ import annotations

import copy

import pytest
import torch

from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.zoo.mend.gradients import (
    at_targets,
    edited_modules,
    first_block,
    gradient_factors,
    has_gradient,
    mlp_weights,
    weight_shapes,
)
from tests.kg_edit.tiny import families, tiny

TEXT, TARGET = "LeBron James plays for", "Los Angeles Lakers"


def prompt(model: LanguageModel) -> Prompt:
    return model.encode(TEXT, target=TARGET)


def autograd(model: LanguageModel, names: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], float]:
    """The weights' gradients [out, in] of the target's mean -log p, from one plain backward pass."""
    twin = copy.deepcopy(model)
    encoded = prompt(model)
    logits = twin.model(torch.tensor([encoded.ids])).logits[0, encoded.target_start - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(encoded.target_ids))
    loss.backward()
    gradients: dict[str, torch.Tensor] = {}
    for name, module in edited_modules(twin, names).items():
        grad = module.weight.grad
        assert isinstance(grad, torch.Tensor)
        gradients[name] = grad if isinstance(module, torch.nn.Linear) else grad.T
    return gradients, float(loss.detach())


@pytest.mark.parametrize("family", families(("llama", "gpt2")))
def test_factors_are_the_gradient_of_the_weight(family: str) -> None:
    """Linear and Conv1D, gated and plain MLPs, MLPs on flattened rows."""
    model = tiny(family)
    names = mlp_weights(model, 2)
    with keep_untouched(model):
        factors, loss = gradient_factors(model, prompt(model), names)
    expected, plain = autograd(model, names)
    assert loss == pytest.approx(plain, rel=1e-5)
    for name, (inputs, deltas) in factors.items():
        error = (deltas.T @ inputs - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, name


def test_factors_of_named_weights() -> None:
    model = tiny("llama")
    names = ("model.layers.0.self_attn.v_proj.weight", "model.layers.2.mlp.up_proj.weight")
    with keep_untouched(model):
        factors, _ = gradient_factors(model, prompt(model), names)
    expected, _ = autograd(model, names)
    for name, (inputs, deltas) in factors.items():
        assert (deltas.T @ inputs - expected[name]).norm() < 1e-4 * expected[name].norm()
    assert first_block(model, names) == 0


def test_last_block_has_a_gradient_at_the_target_only() -> None:
    model = tiny("llama")
    encoded = prompt(model)
    down, below = "model.layers.3.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"
    with keep_untouched(model):
        factors, _ = gradient_factors(model, encoded, [below, down])
    predicting = list(range(encoded.target_start - 1, len(encoded.ids) - 1))
    assert has_gradient(factors[down][1]).nonzero()[:, 0].tolist() == predicting
    assert has_gradient(factors[below][1]).all()
    for part, whole in zip(at_targets(encoded, factors)[below], factors[below], strict=True):
        assert torch.equal(part, whole[predicting])
        assert part.untyped_storage().nbytes() == part.nbytes, "no memory for the prompt's other tokens"


@pytest.mark.parametrize(
    ("family", "found"),
    [("gpt2", ("c_fc", "c_proj")), ("llama", ("gate_proj", "up_proj", "down_proj")), ("opt", ("fc1", "fc2"))],
)
def test_mlp_weights_are_all_matrices_of_the_mlp(family: str, found: tuple[str, ...]) -> None:
    names = mlp_weights(tiny(family), 1)
    assert tuple(name.split(".")[-2] for name in names) == found
    assert weight_shapes(tiny(family), names)[names[-1]][0] == 32
    assert len(mlp_weights(tiny(family), 3)) == 3 * len(names)
