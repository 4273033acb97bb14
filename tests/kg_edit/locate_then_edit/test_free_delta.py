"""The optimisers of a value's change: a step of each by hand, the limit of its norm, and what momentum saves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kg_edit.errors import ConfigError
from kg_edit.locate_then_edit.free_delta import MOMENTUM, FreeDelta, Optimiser
from kg_edit.methods import find_method


def delta(optimiser: Optimiser, *, rate: float, limit: float = 2.0) -> FreeDelta:
    """The change of a value of norm 5, from 0; its norm is at most ``limit`` times 5."""
    settings = SimpleNamespace(optimiser=optimiser, learning_rate=rate, clamp_norm_factor=limit)
    return FreeDelta(torch.tensor([3.0, 4.0]), settings)


def step(change: FreeDelta, gradient: list[float]) -> Tensor:
    """The change after one step along ``gradient``."""
    change.change().grad = torch.tensor(gradient)
    change.learn()
    return change.change().detach().clone()


def test_momentum_moves_by_a_share_of_the_limit_whatever_the_gradients_length() -> None:
    change = delta("momentum", rate=0.1)  # steps of .1 x 2 x 5 = 1
    torch.testing.assert_close(step(change, [0.0, 300.0]), torch.tensor([0.0, -1.0]))
    torch.testing.assert_close(step(change, [0.002, 0.0]), torch.tensor([-1.0, -1.7]))  # u = (0, .7) + (1, 0)


def test_a_gradient_of_zero_moves_nothing() -> None:
    assert step(delta("momentum", rate=0.1), [0.0, 0.0]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("optimiser", "rate"), [("adam", 50.0), ("momentum", 5.0)])
def test_the_norm_is_limited(optimiser: Optimiser, rate: float) -> None:
    assert step(delta(optimiser, rate=rate), [1.0, 1.0]).norm().item() == pytest.approx(10.0)


def test_fast_has_it_for_single_edits() -> None:
    for name in ("rome", "r-rome", "rome-kg", "glame-plus"):
        settings = find_method(name).config_class.preset("fast", {})
        assert settings.model_dump().items() >= MOMENTUM.items(), name
    for name in ("glame", "glame-batch", "glame-net", "memit", "memit-kg", "alphaedit", "emmet", "comeba"):
        assert "optimiser" not in find_method(name).config_class.preset("fast", {}).model_dump(), name


def test_a_network_has_its_own_optimiser() -> None:
    with pytest.raises(ConfigError, match="the R-GNN is trained by AdamW; remove optimiser=momentum"):
        find_method("glame-batch").config_class.preset("default", {"optimiser": "momentum"})
