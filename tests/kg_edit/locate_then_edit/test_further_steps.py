"""An edit that is not said after its steps goes on until it is; one that is said stays as it is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kg_edit.locate_then_edit import optimise
from kg_edit.locate_then_edit.free_delta import FreeDelta
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.locate_then_edit.optimise import Descent, optimise_values
from kg_edit.methods import find_method
from kg_edit.models.prompts import Prompt, encode
from tests.kg_edit.tiny import tiny

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
    """The descents to the likeliest and to the second likeliest token, and whether they are said then."""
    requests = [Request(rewrites=(next_tokens(rank),)) for rank in (0, 1)]
    found = Objective(tiny("llama"), 1, requests, kl_weight=0.0)
    settings = SimpleNamespace(optimiser="adam", learning_rate=0.5, clamp_norm_factor=50.0)
    proposals = [FreeDelta(value, settings) for value in found.value]
    descents = optimise_values(found, proposals, steps=STEPS, stop_below=-1.0, further_steps=further_steps)
    again = Objective(tiny("llama"), 1, requests, kl_weight=0.0)
    change = torch.stack([one.change for one in descents])
    assert not again.greedy(change, margin=99.0).any(), "a margin that no token has"
    return descents, again.greedy(change).tolist()


@pytest.fixture(autouse=True)
def _small_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's logits differ by little."""
    monkeypatch.setattr(optimise, "_MARGIN", 0.01)


def test_what_is_said_is_left_and_what_is_not_goes_on_until_it_is() -> None:
    (easy, hard), said = descended(further_steps=0)
    assert (len(easy.losses), len(hard.losses), said) == (STEPS, STEPS, [True, False])
    (left, longer), said = descended(further_steps=MORE)
    assert said == [True, True]
    assert len(left.losses) == STEPS and torch.equal(left.change, easy.change)
    assert STEPS < len(longer.losses) < STEPS + MORE and longer.losses[:STEPS] == hard.losses


def test_it_ends_where_nothing_helps() -> None:
    (_, hard), _ = descended(further_steps=1)
    assert len(hard.losses) == STEPS + 1


def test_the_defaults_go_on_and_published_settings_do_not() -> None:
    for name in ("rome", "r-rome", "glame", "memit", "emmet", "alphaedit", "memit-kg", "rome-kg"):
        config = find_method(name).config_class
        assert config.preset().model_dump()["further_steps"] == 28
        assert "further_steps" not in config.preset("paper").model_dump(), "patches that were made before say nothing"
    assert "further_steps" not in find_method("rome").config_class.preset("gpt2-xl", method="rome").model_dump()
