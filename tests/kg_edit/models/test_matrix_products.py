"""Matrix products by oneDNN: the same values and gradients as PyTorch's own, and the same model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kg_edit.models import devices
from kg_edit.models.devices import product, takes_onednn, use_onednn
from tests.kg_edit.tiny import tiny

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch was built without oneDNN"
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 7, 24)])
@pytest.mark.parametrize("transposed", [False, True], ids=["linear", "conv1d"])
def test_product_and_its_gradients_of_both_orders_are_those_of_linear(
    *, transposed: bool, shape: tuple[int, ...]
) -> None:
    weight = drawn(24, 40).T if transposed else drawn(40, 24)
    inputs = [drawn(*shape, seed=1), weight, drawn(40, seed=2)]
    results = []
    for multiply in (product, nn.functional.linear):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        loss = multiply(*leaves).square().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(tensor.square().sum() for tensor in first), leaves)
        results.append([loss, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * float(theirs.detach().abs().max()))


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    x, weight = drawn(32, 24).requires_grad_(), drawn(40, 24)
    ((node, _),) = product(x, weight).grad_fn.next_functions  # type: ignore[union-attr]
    assert [saved is None for saved in node.saved_tensors] == [True, False]  # type: ignore[union-attr]
    assert not product(x.detach(), weight).requires_grad
    with torch.no_grad():
        assert not product(x, weight).requires_grad


@pytest.mark.parametrize("shape", [(24,), (7, 24), (3, 7, 24)])
def test_result_may_be_changed_in_place(shape: tuple[int, ...]) -> None:
    """As Falcon's blocks and PEFT's AdaLoRA do."""
    gradients = []
    for multiply in (product, nn.functional.linear):
        x, added = drawn(*shape).requires_grad_(), drawn(40).requires_grad_()
        result = multiply(x, drawn(40, 24))
        result += added
        gradients.append(torch.autograd.grad(result.square().sum(), [x, added]))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (drawn(0, 24), drawn(40, 24)),
        (drawn(32, 24), drawn(40, 48)[:, ::2]),  # neither order is dense
        (drawn(32, 24).bfloat16(), drawn(40, 24).bfloat16()),
        (drawn(32, 24).double(), drawn(40, 24).double()),
    ],
    ids=["no-rows", "strided", "bfloat16", "float64"],
)
def test_other_tensors_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch, x: Tensor, weight: Tensor) -> None:
    monkeypatch.setattr(devices, "_by_onednn", None)
    assert torch.equal(product(x, weight), nn.functional.linear(x, weight))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_model_keeps_its_weights_and_its_logits(family: str) -> None:
    model = copy.deepcopy(tiny(family).model)
    before, ids = model.state_dict(), torch.arange(40).reshape(2, 20)
    expected = model(ids).logits
    use_onednn(model)
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("OneDnnConv1D" if family == "gpt2" else "OneDnnLinear") in kinds
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
    after = model.state_dict()
    assert list(after) == list(before) and all(
        after[name] is before[name] or torch.equal(after[name], before[name]) for name in before
    )


@pytest.mark.parametrize(
    ("vendor", "avx512", "wanted"),
    [
        ("AuthenticAMD", True, True),
        ("AuthenticAMD", False, False),
        ("GenuineIntel", True, False),
        (None, True, False),
    ],
)
def test_processor_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str | None, *, avx512: bool, wanted: bool
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_f": avx512})
    monkeypatch.setattr(devices, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    if vendor:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    assert takes_onednn() is wanted
