"""The network alone: it starts at no change, reads edits side by side, and reads the graph."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kg_edit.methods.glame_net.network import GraphBatch, ReadSubgraph, ValueNetwork

_WIDTH, _INPUTS = 6, 10
_VALUES = torch.randn(2, _WIDTH, generator=torch.Generator().manual_seed(1))
ONE = ReadSubgraph(subject="s", relation="r", target="t", statements=(("capital", "a"), ("continent", "b")))
TWO = ReadSubgraph(subject="u", relation="r", target="v")


def reading(label: str) -> Tensor:
    return torch.randn(_INPUTS, generator=torch.Generator().manual_seed(sum(map(ord, label))))


def network(*, limit: float = 2.0, trained: bool = True, gradient: bool = False) -> ValueNetwork:
    made = ValueNetwork(width=_WIDTH, inputs=_INPUTS, hidden=8, limit=limit, gradient=gradient)
    if trained:
        with torch.no_grad():
            for weight in (made.outer.weight, made.direct.weight):
                weight.normal_(generator=torch.Generator().manual_seed(2))
    return made


def batch(*graphs: ReadSubgraph) -> GraphBatch:
    return GraphBatch.of(graphs, reading)


def test_untrained_network_changes_nothing() -> None:
    assert torch.equal(network(trained=False)(batch(ONE, TWO), _VALUES), torch.zeros(2, _WIDTH))


def test_untrained_network_steps_down_the_gradient() -> None:
    downhill = _VALUES.flip(1) * 1e-3
    found = network(trained=False, gradient=True)(batch(ONE, TWO), _VALUES, downhill)
    assert torch.allclose(found, 1e3 * downhill, atol=1e-5)  # as long as the value
    assert not network(trained=False, gradient=True)(batch(ONE, TWO), _VALUES, 0 * downhill).any()


def test_batch_of_subgraphs_equals_single_ones() -> None:
    made = network()
    alone = torch.cat([made(batch(ONE), _VALUES[:1]), made(batch(TWO), _VALUES[1:])])
    assert torch.allclose(made(batch(ONE, TWO), _VALUES), alone, atol=1e-6)


def test_change_is_no_longer_than_the_limit() -> None:
    lengths = network(limit=0.01)(batch(ONE, TWO), _VALUES).norm(dim=1)
    assert torch.allclose(lengths, 0.01 * _VALUES.norm(dim=1), rtol=1e-4)


def test_change_depends_on_every_input() -> None:
    made = network()
    first = made(batch(ONE), _VALUES[:1])
    others = [
        replace(ONE, statements=ONE.statements[:1]),
        replace(ONE, statements=(("capital", "c"), ("continent", "b"))),
        replace(ONE, target="v"),
        replace(ONE, subject="u"),
        replace(ONE, relation="q"),
    ]
    assert not any(torch.allclose(made(batch(other), _VALUES[:1]), first, atol=1e-4) for other in others)
    assert not torch.allclose(made(batch(ONE), _VALUES[1:]), first, atol=1e-4)


def test_seed_determines_the_network() -> None:
    before = torch.get_rng_state()
    one, other = (ValueNetwork(width=_WIDTH, inputs=_INPUTS, hidden=8, limit=2.0, seed=seed) for seed in (0, 1))
    assert torch.equal(one.inner.weight, network().inner.weight)
    assert not torch.equal(one.inner.weight, other.inner.weight)
    assert torch.equal(torch.get_rng_state(), before)
