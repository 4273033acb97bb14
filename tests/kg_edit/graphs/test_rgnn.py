"""Eq. 5 by hand, its ablations, and gradients that reach every layer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kg_edit.graphs.encoding import EncodedSubgraph
from kg_edit.graphs.rgnn import RGNN, Aggregation, RelationalLayer

NODES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])  # s, o*, o'
EDGES = torch.tensor([[1, 2], [0, 0]])  # o* -> s and o' -> s: messages run from object to subject
RELATIONS = torch.tensor([[1.0, 1.0], [0.5, 0.0]])
W1, W2 = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])


def layer(*, aggregation: str = "sum", relations: bool = True, messages: bool = True) -> RelationalLayer:
    module = RelationalLayer(2, aggregation=aggregation, relations=relations, messages=messages)  # type: ignore[arg-type]
    with torch.no_grad():
        module.neighbours.copy_(W1)
        module.itself.copy_(W2)
    return module


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        # sum (z_o + z_r) = (1, 3) + (-.5, 1) = (.5, 4); W1 -> (.5, 4.5); W2 z_s = (0, 2)
        ({}, [0.5, 6.5]),
        ({"aggregation": "mean"}, [0.25, 4.25]),
        # sum z_o = (-1, 3); W1 -> (-1, 2)
        ({"relations": False}, [-1.0, 4.0]),
        ({"messages": False}, [0.0, 2.0]),
    ],
)
def test_layer_is_eq_5_by_hand(options: dict[str, object], subject: list[float]) -> None:
    output: Tensor = layer(**options)(NODES, EDGES, RELATIONS)  # type: ignore[arg-type]
    torch.testing.assert_close(output[0], torch.tensor(subject))
    torch.testing.assert_close(output[1], W2 @ NODES[1])  # nothing points at o*: W2 z alone


def test_share_by_messages_by_hand() -> None:
    """w = (.5, 4.5) by messages, v = (.5, 6.5) in all (see above): (w . v) / |v|^2."""
    rgnn = RGNN(2, layers=1, final_activation=False)
    rgnn.layers[0] = layer()
    (terms,) = rgnn.trace(NODES, EDGES, RELATIONS, 0)
    assert float(terms.share_by_messages) == pytest.approx((0.25 + 4.5 * 6.5) / (0.25 + 6.5**2))


def test_second_hop_reaches_the_subject_after_two_layers() -> None:
    """s <- o* <- o': what o' is reaches s after two layers, not after one."""
    edges = torch.tensor([[1, 2], [0, 1]])
    moved = NODES.clone()
    moved[2] += 1.0

    @torch.no_grad()
    def change(layers: int) -> float:
        rgnn = RGNN(2, layers=layers, final_activation=False, seed=1)
        return float((rgnn(NODES, edges, RELATIONS) - rgnn(moved, edges, RELATIONS))[0].abs().max())

    assert change(1) == 0
    assert change(2) > 1e-3


@pytest.mark.parametrize("final", [True, False])
def test_gradient_reaches_every_layer(final: bool) -> None:
    rgnn = RGNN(8, layers=3, final_activation=final, seed=0)
    draw = torch.Generator().manual_seed(0)
    edges = torch.tensor([[1, 2, 3], [0, 1, 2]])
    rgnn(torch.randn(4, 8, generator=draw), edges, torch.randn(3, 8, generator=draw))[0].sum().backward()
    for name, parameter in rgnn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_parameters_are_seeded_without_the_global_generator() -> None:
    state = torch.get_rng_state()
    first, again, other = RGNN(4, seed=3), RGNN(4, seed=3), RGNN(4, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    for one, two, three in pairs:
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_final_activation_is_an_option() -> None:
    assert (RGNN(2, final_activation=True)(NODES, EDGES, RELATIONS) >= 0).all()
    assert (RGNN(2, final_activation=False)(NODES, EDGES, RELATIONS) < 0).any()


def test_self_loops_by_hand() -> None:
    """The mean over o*, o' and s itself, by the first relation: ((1, 3) + (-.5, 1) + (2, 1)) / 3."""
    rgnn = RGNN(2, layers=1, aggregation="mean", final_activation=False)
    with torch.no_grad():
        rgnn.layers[0].neighbours.copy_(W1)
        rgnn.layers[0].itself.copy_(W2)
    graph = EncodedSubgraph(nodes=NODES, edges=EDGES, relations=RELATIONS, subject=0).with_self_loops()
    output = rgnn(graph.nodes, graph.edges, graph.relations)
    mean = torch.tensor([2.5 / 3, 5.0 / 3])
    torch.testing.assert_close(output[0], W1 @ mean + W2 @ NODES[0])
    torch.testing.assert_close(output[1], W1 @ (NODES[1] + RELATIONS[0]) + W2 @ NODES[1])


def test_slope_scales_negative_values() -> None:
    plain, leaky = (RGNN(2, slope=slope, seed=2)(NODES, EDGES, RELATIONS) for slope in (0.0, 0.25))
    assert (plain >= 0).all() and (leaky < 0).any()


def test_dropout_is_seeded_and_off_in_evaluation() -> None:
    wide = torch.ones(3, 64)
    relations = torch.ones(2, 64)

    def run(*, training: bool, seed: int) -> Tensor:
        output: Tensor = RGNN(64, layers=1, dropout=0.5, seed=seed).train(training)(wide, EDGES, relations)
        return output

    assert torch.equal(run(training=True, seed=1), run(training=True, seed=1))
    full, dropped = run(training=False, seed=1), run(training=True, seed=1)
    gone = (dropped == 0) & (full > 0)
    assert 0.3 < float(gone.sum() / (full > 0).sum()) < 0.7
    torch.testing.assert_close(dropped[~gone], 2 * full[~gone])


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_networks_together_give_what_each_gives_alone(aggregation: Aggregation) -> None:
    """Graphs of unlike sizes, each with its own weights and its own dropout; training all trains each."""
    draw = torch.Generator().manual_seed(5)
    graphs = [
        EncodedSubgraph(nodes=NODES, edges=EDGES, relations=RELATIONS, subject=0),
        EncodedSubgraph(
            nodes=torch.randn(5, 2, generator=draw),
            edges=torch.tensor([[0, 2, 3, 4], [1, 1, 2, 0]]),
            relations=torch.randn(4, 2, generator=draw),
            subject=1,
        ).with_self_loops(),
    ]

    def networks() -> list[RGNN]:
        return [RGNN(2, aggregation=aggregation, dropout=0.3, slope=0.1, seed=seed) for seed in (1, 2)]

    alone = [
        network(graph.nodes, graph.edges, graph.relations)[graph.subject]
        for network, graph in zip(networks(), graphs, strict=True)
    ]
    separate = networks()
    together, joint = RGNN.together(separate), EncodedSubgraph.together(graphs)
    output = together(joint.nodes, joint.edges, joint.relations, joint.sizes)
    torch.testing.assert_close(output.flatten(0, -2)[joint.subject], torch.stack(alone))
    *_, last = together.trace(joint.nodes, joint.edges, joint.relations, joint.subject)
    for number, graph in enumerate(graphs):
        *_, last_alone = separate[number].trace(graph.nodes, graph.edges, graph.relations, graph.subject)
        torch.testing.assert_close(last.share_by_messages[number], last_alone.share_by_messages)
    with torch.no_grad():
        for weight in together.parameters():
            weight.mul_(2)
    torch.testing.assert_close(separate[1].layers[0].itself, 2 * networks()[1].layers[0].itself)


@pytest.mark.slow
def test_import_leaves_no_temporary_file(tmp_path: Path) -> None:
    code = "from kg_edit.graphs.rgnn import RGNN; RGNN(4)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())
