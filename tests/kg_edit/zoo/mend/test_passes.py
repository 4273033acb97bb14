"""Rows that each run with a change of their own give the logits of a model that holds the change in its weights."""

from __future__ import annotations

import pytest
import torch

from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.mend.gradients import EditedPasses, mlp_weights, weight_shapes
from tests.kg_edit.tiny import families, tiny
from tests.kg_edit.zoo.mend.examples import hooks_of

ASKED = (
    ("LeBron James plays for", "Miami Heat"),
    ("France", "Paris"),
    ("The quick brown fox jumps over", "the lazy dog"),
)


def prompts(model: LanguageModel) -> list[Prompt]:
    return [model.encode(text, target=target) for text, target in ASKED]


@torch.no_grad()
def plain(model: LanguageModel, prompt: Prompt) -> torch.Tensor:
    """Logits where the target is predicted, from one row alone."""
    logits: torch.Tensor = model.model(torch.tensor([prompt.ids])).logits[0, prompt.target_start - 1 : -1]
    return logits


@pytest.mark.parametrize("family", families(("llama", "gpt2")))
def test_the_logits_are_those_of_a_model_with_the_patch(family: str) -> None:
    model = tiny(family)
    names, rows = mlp_weights(model, 2), prompts(model)
    random = torch.Generator().manual_seed(1)
    changes = {
        name: (0.2 * torch.randn(2, 3, out, generator=random), torch.randn(2, 3, size, generator=random))
        for name, (out, size) in weight_shapes(model, names).items()
    }
    owners = [0, 1, 1]
    with keep_untouched(model):
        passes = EditedPasses(model, rows, names)
        clean = passes.logits(range(3))
        edited = passes.logits([2, 0, 1], changes, torch.tensor(owners))
    torch.testing.assert_close(clean, torch.cat([plain(model, row) for row in rows]), rtol=1e-3, atol=1e-4)
    expected = []
    for row in (2, 0, 1):
        mine = {name: (left[owners[row]].T, right[owners[row]].T) for name, (left, right) in changes.items()}
        patch = WeightPatch(factors={name: Factors(left=left, right=right) for name, (left, right) in mine.items()})
        with patch.applied(model):
            expected.append(plain(model, rows[row]))
    torch.testing.assert_close(edited, torch.cat(expected), rtol=1e-3, atol=1e-3)
    assert hooks_of(model) == 0


def test_gradients_flow_back_to_the_changes_and_nowhere_else() -> None:
    model = tiny("llama")
    names = mlp_weights(model, 1)
    shapes = weight_shapes(model, names)
    changes = {
        name: (torch.zeros(1, 1, out, requires_grad=True), torch.ones(1, 1, size, requires_grad=True))
        for name, (out, size) in shapes.items()
    }
    with keep_untouched(model):
        passes = EditedPasses(model, prompts(model)[:1], names)
        passes.logits([0], changes, torch.tensor([0])).logsumexp(-1).sum().backward()
    assert all(left.grad is not None and left.grad.abs().max() > 0 for left, _ in changes.values())
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_shares_are_a_mean_of_means() -> None:
    model = tiny("llama")
    with keep_untouched(model):
        passes = EditedPasses(model, prompts(model), mlp_weights(model, 1))
    tokens, shares = passes.targets([0, 2])
    first, last = (prompts(model)[row].target_ids for row in (0, 2))
    assert tokens.tolist() == [*first, *last]
    assert shares[: len(first)].sum() == pytest.approx(0.5) and float(shares.sum()) == pytest.approx(1.0)
