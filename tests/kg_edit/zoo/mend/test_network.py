"""The editor network by hand: what it computes, what weights share."""

from __future__ import annotations

import pytest
import torch

from kg_edit.zoo.mend.network import LowRankLayer, MendNetwork

SHAPES = {"a": (2, 3), "b": (2, 3), "c": (3, 2)}


def network(**settings: object) -> MendNetwork:
    return MendNetwork(SHAPES, **{"rank": 4, "edit_lr": 0.5, "seed": 1, **settings})  # type: ignore[arg-type]


def pair(tokens: int = 4, name: str = "a") -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(tokens)
    out, size = SHAPES[name]
    return torch.randn(tokens, size, generator=random), torch.randn(tokens, out, generator=random)


def test_layer_by_hand() -> None:
    layer = LowRankLayer(2, rank=1, members=2, generator=torch.Generator())
    with torch.no_grad():
        layer.down.copy_(torch.tensor([[1.0, 2.0]]))
        layer.up.copy_(torch.tensor([[3.0], [-1.0]]))
        layer.bias.copy_(torch.tensor([1.0, 1.0]))
        layer.scale[1] = torch.tensor([2.0, -1.0])
        layer.offset[1] = torch.tensor([-5.0, 0.5])
    x = torch.tensor([1.0, 1.0])  # V x = 3, U V x + b = (10, -2)
    assert layer(x, 0).tolist() == [11.0, 1.0]  # max(0, -2) = 0
    assert layer(x, 1).tolist() == [1.0 + 15.0, 1.0 + 2.5]


def test_gradient_at_the_start_is_not_zero() -> None:
    """At 0, where all starts, a rectifier must not stop the gradient."""
    net = network()
    net.compute_changes({"a": pair()})["a"][1].sum().backward()
    first, second = net.layers["2x3"]  # type: ignore[misc]
    assert second.up.grad is not None and second.up.grad.abs().max() > 0
    assert first.up.grad is not None and first.up.grad.abs().max() > 0


def test_weights_of_one_shape_share_matrices() -> None:
    net = network()
    first, _ = net.layers["2x3"]  # type: ignore[misc]
    before = [net(name, *pair())[0] for name in ("a", "b")]
    assert set(net.layers) == {"2x3", "3x2"} and first.scale.shape == (2, 5)
    with torch.no_grad():
        first.offset[1] = 1.0
    after = [net(name, *pair())[0] for name in ("a", "b")]
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
    with torch.no_grad():
        first.bias += 1.0
    assert not torch.equal(net("a", *pair())[0], before[0])


def test_features_are_normalised_and_constant_ones_stay_small() -> None:
    inputs, deltas = pair(tokens=200)
    inputs, deltas = 5 + 3 * inputs, 1e-6 * deltas
    inputs[:, 1], deltas[:, 0] = 7.0, 0.0
    net = network()
    net.normalise_by({"a": (inputs, deltas)})
    better, direction = (part.detach() for part in net("a", inputs, deltas))
    for seen in (better[:, 0], better[:, 2], direction[:, 1]):
        assert abs(float(seen.mean())) < 1e-4 and float(seen.std()) == pytest.approx(1.0, abs=1e-3)
    assert better[:, 1].abs().max() < 1e-2 and direction[:, 0].abs().max() == 0
    assert torch.equal(net("b", inputs, deltas)[0], inputs)  # each weight has its own


def test_tokens_without_a_gradient_change_nothing() -> None:
    net = network()
    net.normalise_by({"a": pair(tokens=50)})
    inputs, deltas = pair()
    deltas[1:3] = 0
    change = net.compute_factors({"a": (inputs, deltas)})["a"]
    alone = net.compute_factors({"a": (inputs[[0, 3]], deltas[[0, 3]])})["a"]
    assert change.rank == 2 and torch.equal(change.product, alone.product)
    left, right = net.compute_changes({"a": (inputs, deltas)})["a"]
    torch.testing.assert_close(left.T @ right, change.product)


def test_the_order_in_which_weights_are_named_does_not_matter() -> None:
    """A file keeps names in another order than the caller had them in."""
    net, turned = network(), MendNetwork(dict(reversed(SHAPES.items())), rank=4, edit_lr=0.5, seed=1)
    net.normalise_by({name: pair(tokens=9, name=name) for name in SHAPES})
    turned.load_state_dict(net.state_dict())
    for name in SHAPES:
        assert torch.equal(net(name, *pair(name=name))[0], turned(name, *pair(name=name))[0])


def test_rates_are_learned_one_a_weight_and_stay_above_0() -> None:
    net = network()
    with torch.no_grad():
        net.log_rates.copy_(torch.tensor([0.0, 1.0, -50.0]))
    assert [float(net.compute_rate(name).detach()) for name in "ab"] == pytest.approx([0.5, 0.5 * 2.718281828])
    assert 0 < float(net.compute_rate("c").detach()) < 1e-20


def test_the_seed_decides_the_network_and_no_global_state() -> None:
    before = torch.get_rng_state()
    first, same, other = (network(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
