"""The product of a low-rank change: dense and almost dense ones, and the nearest change of a lower rank."""

from __future__ import annotations

import pytest
import torch

from kg_edit.patches.factors import Factors


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_dense_change_is_not_multiplied(shape: tuple[int, int]) -> None:
    change = torch.randn(shape)
    pair = Factors.dense(change)
    assert torch.equal(pair.product, change)
    assert torch.equal(pair.product, pair.left @ pair.right.T)
    assert pair.product.data_ptr() in (pair.left.data_ptr(), pair.right.data_ptr())


def test_almost_identity_factor_is_multiplied() -> None:
    left, right = torch.eye(3), torch.randn(5, 3)
    left[0, 2] = 0.5
    assert torch.equal(Factors(left=left, right=right).product, left @ right.T)


def test_a_change_of_zero_keeps_all_of_its_norm_when_it_is_reduced() -> None:
    reduced, kept = Factors(left=torch.zeros(4, 2), right=torch.ones(3, 2)).reduced(1)
    assert kept == 1 and not reduced.product.any()


def test_reduced_change_is_the_nearest_of_its_rank() -> None:
    draw = torch.Generator().manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(6, 3, generator=draw))
    right, _ = torch.linalg.qr(torch.randn(9, 3, generator=draw))
    pair = Factors(left=left * torch.tensor([3.0, 2.0, 1.0]), right=right)  # singular values 3, 2 and 1
    reduced, kept = pair.reduced(2)
    assert reduced.rank == 2 and kept == pytest.approx((9 + 4) / (9 + 4 + 1))
    largest = 3 * left[:, :1] @ right[:, :1].T + 2 * left[:, 1:2] @ right[:, 1:2].T
    torch.testing.assert_close(reduced.product, largest)
    assert pair.reduced(3) == (pair, 1.0)


def test_factors_are_compared_by_identity() -> None:
    """As patches are: their tensors have no single truth value."""
    pair, same_numbers = (Factors(left=torch.ones(4, 2), right=torch.ones(3, 2)) for _ in range(2))
    assert pair == pair and pair != same_numbers
