"""EAMET: the term that aligns the changes with the keys, and what it does to the values that are found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.locate_then_edit.objective import Objective
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.eamet.method import Eamet, EametConfig
from tests.everyday import keep_first
from tests.kg_edit.methods.memit.joint import EDITS, joint
from tests.kg_edit.tiny import tiny

KEYS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])  # cosines 0, 1 and 0


def term(change: Tensor, *, earlier: Sequence[Tensor] = (), **settings: Any) -> Tensor:
    method = joint("eamet", tiny("llama"), weight_decay=0.0, temperature=0.5, **settings)
    assert isinstance(method, Eamet)
    keys = KEYS[: len(change) + sum(map(len, earlier))]
    return method.penalise_unlikeness(change, torch.ones_like(change), keys=keys, earlier=earlier)


def test_the_term_of_a_hand_computed_case() -> None:
    """Changes with cosines 0 (1, 2), 0 (1, 3) and 1 (2, 3), where those of the keys are 0, 1 and 0."""
    change = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    near, far = math.exp(2) / (1 + math.exp(2)), 1 / (1 + math.exp(2))  # the softmax of (1, 0) / 0.5
    first = near * math.log(near / 0.5) + far * math.log(far / 0.5)  # P_k = (far, near), P_r = (1/2, 1/2)
    second = 0.5 * (math.log(0.5 / near) + math.log(0.5 / far))  # P_k = (1/2, 1/2), P_r = (far, near)
    third = near * math.log(near / far) + far * math.log(far / near)  # P_k = (near, far), P_r = (far, near)
    torch.testing.assert_close(term(change, align_mse=0.0), torch.tensor([first, second, third]))
    # The squared error of the nearest key's cosine: 1 - 0, one of the two with 0, and 1 - 0
    errors = term(change, align_kl=0.0, nearest=1)
    torch.testing.assert_close(errors[::2], torch.ones(2))
    torch.testing.assert_close(term(change, align_kl=0.0), torch.tensor([near, 0.5, 1.0]))


def test_changes_as_similar_as_the_keys_cost_nothing() -> None:
    assert term(7 * KEYS).abs().max() < 1e-6
    assert term(KEYS[:1]).tolist() == [0.0], "a single fact has nothing to be aligned with"


def test_facts_of_an_earlier_descent_count_like_those_of_the_same() -> None:
    change = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    fact, earlier = change.split([1, 2])
    torch.testing.assert_close(term(fact, earlier=[earlier[:1], earlier[1:]]), term(change)[:1])


def test_the_gradient_reaches_a_facts_own_change_alone() -> None:
    change = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(term(change)[0], change)
    assert gradient[0].abs().max() > 0 and gradient[1:].abs().max() == 0
    start = torch.zeros(3, 2, requires_grad=True)
    (first,) = torch.autograd.grad(term(start).sum(), start)
    assert first.isfinite().all(), "the descent starts without a change"


def cosines(rows: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(rows, dim=1)
    return (unit @ unit.T)[torch.triu_indices(len(rows), len(rows), 1).unbind()]


@pytest.mark.slow
@pytest.mark.parametrize("memory", keep_first([1000.0, 1e-3]), ids=["one descent", "one after the other"])
def test_a_descent_aligns_the_changes_with_the_keys(memory: float) -> None:
    model, distances = tiny("llama"), []
    for weight in (0.0, 20.0):
        method = joint("eamet", model, align_kl=weight, align_mse=weight, steps=30, stop_below=-1.0)
        method.memory = memory
        facts = [fact for edit in EDITS for fact in method.make_facts(edit)]
        changes = torch.stack([value.descent.change for value in method.find_values(facts)])
        keys = Objective(model, method.layers[-1], [fact.prompts for fact in facts], kl_weight=0.0).mean_key
        distances.append(float((cosines(changes) - cosines(keys)).abs().max()))
    assert distances[1] < 0.5 * distances[0]


def test_others_are_aligned_with_an_ended_change_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first fact ends without a step, as its loss of 6.9 is below 7; Adam's steps for the others would move it."""
    seen, aligned = list[Tensor](), Eamet.penalise_unlikeness

    def watched(self: Eamet, change: Tensor, state: Tensor, **options: Any) -> Tensor:
        seen.append(change.detach().clone())
        return aligned(self, change, state, **options)

    monkeypatch.setattr(Eamet, "penalise_unlikeness", watched)
    method = joint("eamet", tiny("llama"), steps=5, further_steps=0, stop_below=7.0)
    values = method.find_values([fact for edit in EDITS for fact in method.make_facts(edit)])
    assert [len(value.descent.losses) for value in values] == [1, 5, 5]
    torch.testing.assert_close(seen[-1], torch.stack([value.descent.change for value in values]))


@pytest.mark.slow
def test_an_edit_alone_is_memits() -> None:
    model = tiny("llama")
    alone = joint("eamet", model, mom2_weight=10.0).edit_each(EDITS)
    memit = joint("memit", model, mom2_weight=10.0).edit_each(EDITS)
    together = joint("eamet", model, mom2_weight=10.0).edit(EDITS)
    assert isinstance(together, WeightPatch)
    for patch, memit_patch, value in zip(alone, memit, together.state["value"].T, strict=True):
        assert isinstance(patch, WeightPatch) and isinstance(memit_patch, WeightPatch)
        torch.testing.assert_close(patch.state["value"], memit_patch.state["value"], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(patch.state["value"][:, 0], value, rtol=1e-3, atol=1e-3)


def test_settings_of_the_public_code() -> None:
    paper = EametConfig.preset("paper", method="eamet")
    of_model = EametConfig.preset("qwen2.5-7b", method="eamet")
    assert paper.model_dump() == {**of_model.model_dump(), "layers": None}, "the same file, without its layers"
    assert (paper.steps, paper.learning_rate, paper.kl_weight, paper.clamp_norm_factor) == (25, 0.5, 0.0625, 4.0)
    assert (paper.align_kl, paper.align_mse, paper.temperature, paper.nearest) == (1.0, 1.0, 0.07, 50)
