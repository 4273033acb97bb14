"""MALMEN's network by hand: value differences, their aggregation by ridge regression, and both stages' gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.zoo.malmen.network import MalmenNetwork, ridge_rows
from kg_edit.zoo.mend.network import LowRankLayer

SHAPES = {"a": (2, 3), "b": (2, 3), "c": (3, 2)}


def network(*, random: bool = False, layers: int = 2) -> MalmenNetwork:
    """A network at its start, or with parameters and statistics drawn at random."""
    net = MalmenNetwork(SHAPES, rank=4, edit_lr=0.5, layers=layers, seed=1)
    if random:
        draw = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        net.normalise_by({name: pair(6, name, seed=9) for name in SHAPES})
    return net


def pair(tokens: int, name: str = "a", *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys [tokens, in] and gradients [tokens, out] of a weight."""
    draw = torch.Generator().manual_seed(seed)
    out, size = SHAPES[name]
    return torch.randn(tokens, size, generator=draw), torch.randn(tokens, out, generator=draw)


@pytest.mark.parametrize("tokens", [1, 3, 7])
def test_both_forms_are_the_explicit_solution(tokens: int) -> None:
    """With fewer tokens than inputs, and with more: K (K^T K + ridge I)^-1, inverted."""
    keys, ridge = pair(tokens)[0].double(), 0.3
    expected = keys @ torch.linalg.inv(keys.T @ keys + ridge * torch.eye(3))
    torch.testing.assert_close(ridge_rows(keys, torch.tensor(ridge)), expected)


def test_repeated_keys_are_fitted_together() -> None:
    """Where MEND adds the changes of two edits with one key, the least squares give their mean."""
    keys = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    update = torch.tensor([[2.0, 4.0]]) @ ridge_rows(keys, torch.tensor(1e-9))
    torch.testing.assert_close(update @ keys[0], torch.tensor([3.0]))


def plain_differences(net: MalmenNetwork, name: str, keys: Tensor, gradients: Tensor) -> list[list[float]]:
    """The value differences in plain loops, token by token: -rate sum_i(k_i k~_i) g~."""
    index, size, differences = [*net.shapes].index(name), keys.shape[1], []
    mean, deviation = (getattr(net, f"{part}_{index}").tolist() for part in ("mean", "deviation"))
    members = [other for other, shape in net.shapes.items() if shape == net.shapes[name]]
    layers: list[LowRankLayer] = [*net.layers["x".join(map(str, net.shapes[name]))]]  # type: ignore[arg-type]
    for token in range(len(keys)):
        x = [*keys[token].tolist(), *gradients[token].tolist()]
        x = [(value - mean[i]) / deviation[i] for i, value in enumerate(x)]
        for layer in layers:
            up, down, bias = layer.up.tolist(), layer.down.tolist(), layer.bias.tolist()
            scale, offset = (part[members.index(name)].tolist() for part in (layer.scale, layer.offset))
            inner = [sum(row[i] * value for i, value in enumerate(x)) for row in down]
            mapped = [sum(row[i] * value for i, value in enumerate(inner)) + bias[j] for j, row in enumerate(up)]
            x = [value + max(0.0, scale[i] * mapped[i] + offset[i]) for i, value in enumerate(x)]
        rate = 0.5 * float(net.log_rates[index].detach().exp())
        product = sum(key * x[i] for i, key in enumerate(keys[token].tolist()))
        differences.append([-rate * product * value for value in x[size:]])
    return differences


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("layers", [2, 4])
def test_update_is_that_of_the_public_formulas(name: str, layers: int) -> None:
    """In plain loops, then an explicit solve: (K^T K + e^lambda I) shift = K^T D; the update is shift's transpose."""
    net, (keys, gradients) = network(random=True, layers=layers), pair(5, name)
    differences = torch.tensor(plain_differences(net, name, keys, gradients), dtype=torch.float64)
    ridge = net.log_ridges.detach()[[*net.shapes].index(name)].double().exp()
    k = keys.double()
    shift = torch.linalg.solve(k.T @ k + ridge * torch.eye(k.shape[1]), k.T @ differences)
    change = net.compute_factors({name: (keys, gradients)})[name].product
    torch.testing.assert_close(change.double(), shift.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [2, 5])
def test_gradient_is_that_of_the_published_two_stages(tokens: int) -> None:
    """With G, the loss's gradient by the weight, M = (K^T K + ridge I)^-1 G^T, the published code gives
    dL/dD = K M and dL/dlambda = -e^lambda sum(M * shift); autograd through the solve has to agree."""
    net, (keys, gradients) = network(random=True), pair(tokens)
    outer = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))  # G [out, in]
    ((left, right),) = net.compute_changes({"a": (keys, gradients)}).values()
    (left[0].T @ right[0] * outer).sum().backward()
    grads = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}

    net.zero_grad()
    ridge = net.log_ridges.detach()[0].exp()
    gram = keys.T @ keys + ridge * torch.eye(3)
    differences = net.compute_differences("a", keys, gradients)
    shift = torch.linalg.solve(gram, keys.T @ differences.detach())
    solved = torch.linalg.solve(gram, outer.T)  # M [in, out]
    ((keys @ solved) * differences).sum().backward()
    assert float(grads["log_ridges"][0]) == pytest.approx(float(-ridge * (solved * shift).sum()), rel=1e-4)
    for name, parameter in net.named_parameters():
        if name != "log_ridges" and parameter.grad is not None:
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-6)
