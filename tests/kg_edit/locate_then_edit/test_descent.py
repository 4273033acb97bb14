"""The descent: its optimisers by hand, when an edit ends, changes with noise, and the copy in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.errors import ConfigError
from kg_edit.locate_then_edit import descent
from kg_edit.locate_then_edit.descent import (
    MOMENTUM_PRESET,
    Delta,
    Descent,
    FreeDelta,
    Optimiser,
    Stops,
    descend,
    descent_model,
)
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods import find_method
from kg_edit.models.hooks import change_output
from kg_edit.models.prompts import Prompt, encode
from tests.kg_edit.tiny import same_weights, tiny

# One step of each optimiser


def delta(optimiser: Optimiser, *, rate: float, limit: float = 2.0) -> FreeDelta:
    """The change of a value of norm 5, from 0; its norm is at most ``limit`` times 5."""
    value = torch.tensor([3.0, 4.0])
    return FreeDelta(value, optimiser=optimiser, learning_rate=rate, clamp_norm_factor=limit)


def step(change: FreeDelta, gradient: list[float]) -> Tensor:
    """The change after one step along ``gradient``."""
    change.change().grad = torch.tensor(gradient)
    change.learn()
    return change.change().detach().clone()


def test_momentum_moves_by_a_share_of_the_limit_whatever_the_gradients_length() -> None:
    change = delta("momentum", rate=0.1)  # steps of .1 x 2 x 5 = 1
    torch.testing.assert_close(step(change, [0.0, 300.0]), torch.tensor([0.0, -1.0]))
    torch.testing.assert_close(step(change, [0.002, 0.0]), torch.tensor([-1.0, -1.7]))  # u = (0, .7) + (1, 0)
    assert step(delta("momentum", rate=0.1), [0.0, 0.0]).tolist() == [0.0, 0.0], "a gradient of 0 moves nothing"


@pytest.mark.parametrize(("optimiser", "rate"), [("adam", 50.0), ("momentum", 5.0)])
def test_the_norm_of_a_change_is_limited(optimiser: Optimiser, rate: float) -> None:
    assert step(delta(optimiser, rate=rate), [1.0, 1.0]).norm().item() == pytest.approx(10.0)


def test_fast_preset_uses_momentum_for_single_edits_only() -> None:
    for name in ("rome", "r-rome", "rome-kg", "glame-plus"):
        settings = find_method(name).config_class.preset("fast").model_dump()
        assert settings.items() >= MOMENTUM_PRESET.items() and settings["descent_dtype"] == "bfloat16", name
    for name in ("glame", "glame-batch", "memit", "memit-kg", "alphaedit", "emmet", "comeba", "eamet", "pmet"):
        assert find_method(name).config_class.preset("fast").model_dump().get("optimiser", "adam") == "adam", name


def test_a_network_refuses_another_optimiser() -> None:
    with pytest.raises(ConfigError, match="the R-GNN is trained by AdamW; remove optimiser=momentum"):
        find_method("glame-batch").config_class.preset("default", {"optimiser": "momentum"})


# When an edit ends


STEPS, MORE = 2, 30


def next_tokens(rank: int) -> Prompt:
    """A prompt whose target is the token that a random model finds likeliest (rank 0), second likeliest (1), …"""
    model = tiny("llama")
    prompt = encode(model.tokenizer, "{} originates from", subject="Spike Hughes", target="London")
    start = list(prompt.ids[: prompt.target_start])
    with torch.no_grad():
        likeliest = model.model(torch.tensor([start])).logits[0, -1].topk(rank + 1).indices
    return replace(prompt, ids=(*start, int(likeliest[rank])))


def descended(*, further_steps: int) -> tuple[list[Descent], list[bool]]:
    """The descents to the likeliest and to the second likeliest token, and whether they are predicted then."""
    requests = [Request(rewrites=(next_tokens(rank),)) for rank in (0, 1)]
    objective = Objective(tiny("llama"), 1, requests, kl_weight=0.0)
    delta = FreeDelta(objective.value, learning_rate=0.5, clamp_norm_factor=50.0)
    descents = descend(objective, delta, Stops(steps=STEPS, stop_below=-1.0, further_steps=further_steps))
    again = Objective(tiny("llama"), 1, requests, kl_weight=0.0)
    change = torch.stack([run.change for run in descents])
    missed = again.gradient(change, margin=0.0)[0].missed
    assert missed is not None
    return descents, (missed == 0).tolist()


def test_further_steps_run_only_until_the_target_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "_MARGIN", 0.01)  # a random model's logits differ by little
    (easy, hard), predicted = descended(further_steps=0)
    assert (len(easy.losses), len(hard.losses), predicted) == (STEPS, STEPS, [True, False])
    (shorter, longer), predicted = descended(further_steps=MORE)
    assert predicted == [True, True]
    assert len(shorter.losses) == STEPS and torch.equal(shorter.change, easy.change)
    assert STEPS < len(longer.losses) < STEPS + MORE and longer.losses[:STEPS] == hard.losses
    (_, limited), _ = descended(further_steps=1)
    assert len(limited.losses) == STEPS + 1


def test_default_settings_have_further_steps_and_published_ones_have_none() -> None:
    for name in ("rome", "r-rome", "glame", "memit", "emmet", "alphaedit", "memit-kg", "pmet", "eamet", "rome-kg"):
        config = find_method(name).config_class
        for settings, expected in (
            (config(), (28, 1.0)),
            (config.preset(), (28, 1.0)),
            (config.preset("paper"), (0, 0.0)),
        ):
            values = settings.model_dump()
            assert (values["further_steps"], values["hold"]) == expected, name
    published = find_method("rome").config_class.preset("gpt2-xl", method="rome").model_dump()
    assert (published["further_steps"], published["hold"]) == (0, 0.0)


# Changes with noise

NOISY_STEPS = 4


class Noisy(Delta):
    """Free changes with the noise of each evaluation added; ``offset`` is what they are without noise."""

    def __init__(self, value: Tensor, *, offset: Tensor | None) -> None:
        self._change = torch.zeros_like(value).requires_grad_()
        self._offset = offset
        self._draw = torch.Generator().manual_seed(0)
        self.given = list[Tensor]()
        self.keeps_lowest = offset is not None

    def change(self) -> Tensor:
        noise = 0.01 * torch.randn(self._change.shape, generator=self._draw)
        self.given.append(self._change.detach() + noise)
        return self._change + noise

    def settle(self) -> Tensor | None:
        return None if self._offset is None else self._change.detach() + self._offset

    def describe(self, edits: Sequence[int]) -> list[dict[str, Any]]:
        return [{"evaluations": len(self.given)} for _ in edits]

    def learn(self) -> None:
        with torch.no_grad():
            assert self._change.grad is not None
            self._change -= 0.5 * self._change.grad
            self._change.grad = None


def two_edits() -> Objective:
    model = tiny("llama")
    names = {"Spike Hughes": "London", "France": "Rome"}
    prompts = [encode(model.tokenizer, "{} is from", subject=name, target=new) for name, new in names.items()]
    return Objective(model, 1, [Request(rewrites=(prompt,)) for prompt in prompts], kl_weight=0.0)


def with_noise(offset: Tensor | None, *, stop_below: float = -1.0) -> tuple[list[Descent], Noisy]:
    loss = two_edits()
    delta = Noisy(loss.value, offset=offset)
    return descend(loss, delta, Stops(steps=NOISY_STEPS, stop_below=stop_below)), delta


def test_last_evaluation_has_no_noise() -> None:
    quiet, delta = with_noise(torch.zeros(tiny("llama").width))
    expected = delta.settle()
    assert expected is not None
    with torch.no_grad():
        losses = two_edits()(expected).total.tolist()
    for edit, run in enumerate(quiet):
        assert torch.equal(run.change, expected[edit]) and len(run.losses) == NOISY_STEPS + 1
        assert run.losses[-1][0] == pytest.approx(losses[edit], rel=1e-5)
    noisy, delta = with_noise(None)
    for edit, run in enumerate(noisy):
        assert torch.equal(run.change, delta.given[-1][edit]), "without `settle` the last pass counts"
        assert len(run.losses) == NOISY_STEPS


def test_best_pass_counts_if_the_change_without_noise_is_much_worse() -> None:
    far = torch.full((tiny("llama").width,), 50.0)
    (noisy, _), delta = with_noise(far)
    passes = [total for total, _, _ in noisy.losses[:NOISY_STEPS]]
    best = passes.index(min(passes))
    assert torch.equal(noisy.change, delta.given[best][0]) and noisy.losses[-1] == noisy.losses[best]
    assert noisy.notes == {}, "what was noted at the end is about another change"
    enough, delta = with_noise(far, stop_below=1e9)
    expected = delta.settle()
    assert expected is not None
    for edit, run in enumerate(enough):
        assert torch.equal(run.change, expected[edit]), "it is below the loss that ends a descent"
        assert run.notes == {"evaluations": 1}


# The copy in bfloat16


@pytest.fixture
def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg_edit.locate_then_edit.descent.computes_in_bfloat16", lambda: True)


@pytest.mark.usefixtures("in_bfloat16")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rough_copy_is_the_model_cast_and_the_model_is_unchanged(family: str) -> None:
    model = tiny(family)
    before = deepcopy(model.model.state_dict())
    rough = descent_model(model, "bfloat16").model
    plain = deepcopy(model.model).to(torch.bfloat16)
    buffers = dict(rough.named_buffers()), dict(plain.named_buffers())
    for tensors, expected in ((rough.state_dict(), plain.state_dict()), buffers):
        assert tensors.keys() == expected.keys()
        assert all(tensors[name].dtype == expected[name].dtype for name in expected)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert not any(weight.requires_grad for weight in rough.parameters())
    tied = model.model.get_output_embeddings().weight is model.model.get_input_embeddings().weight
    assert (rough.get_output_embeddings().weight is rough.get_input_embeddings().weight) is tied

    with torch.no_grad():
        for tensor in (*rough.parameters(), *rough.buffers()):
            tensor.zero_()
    assert same_weights(model, before)


@pytest.mark.usefixtures("in_bfloat16")
def test_a_model_in_bfloat16_or_with_an_adapter_is_not_copied() -> None:
    """A hook of GRACE or MELO looks for the prompts' ends in the model that it was made for."""
    model = tiny("llama")
    assert descent_model(model, "model") is model
    with change_output(model.block(1), lambda output: output):
        assert descent_model(model, "bfloat16") is model
    rough = replace(model, model=deepcopy(model.model).to(torch.bfloat16))
    assert descent_model(rough, "bfloat16") is rough


def test_without_products_in_bfloat16_the_descent_runs_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a copy takes many times as long as the model, so "fast" would be the slowest preset."""
    monkeypatch.setattr("kg_edit.locate_then_edit.descent.computes_in_bfloat16", lambda: False)
    model = tiny("llama")
    assert descent_model(model, "bfloat16") is model
