"""The bounds on an update, by hand: SPHERE, RECT and PRUNE."""

from __future__ import annotations

import pytest
import torch

from kg_edit.patches.factors import Factors
from kg_edit.zoo.restrained.bounds import find_principal_directions, keep_most_changed, prune, remove_principal


def test_update_off_the_principal_directions() -> None:
    """The rows of W at norm 1 are e1, e1, e2: A^T A has the eigenvalues 2, 1, so e1 alone has half of the sum."""
    weight = torch.tensor([[4.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    right = torch.tensor([[1.0, 5.0], [2.0, 0.0], [3.0, 1.0]])
    assert remove_principal(find_principal_directions(weight), right, strength=0.8).tolist() == [
        pytest.approx([0.2, 1.0]),
        pytest.approx([2.0, 0.0]),
        pytest.approx([3.0, 1.0]),
    ]
    torch.testing.assert_close(remove_principal(find_principal_directions(weight), right, strength=0.0), right)


def test_rect_writes_the_elements_that_change_their_weight_most() -> None:
    """|D / W| is 1/2, 4, infinite (W = 0), 1/4, 0 (both are 0), 3: three of six are written."""
    update = Factors(left=torch.tensor([[1.0], [2.0]]), right=torch.tensor([[1.0], [-4.0], [0.0]]))
    update = update + Factors(left=torch.tensor([[1.0], [0.0]]), right=torch.tensor([[0.0], [0.0], [5.0]]))
    assert update.product.tolist() == [[1, -4, 5], [2, -8, 0]]
    weight = torch.tensor([[2.0, 1.0, 0.0], [-8.0, 8 / 3, 0.0]])
    assert keep_most_changed(update, weight, share=0.5).product.tolist() == [[0, -4, 5], [0, -8, 0]]
    assert keep_most_changed(update, weight, share=1.0).product.tolist() == update.product.tolist()


@pytest.mark.parametrize("dense", [False, True])
def test_prune_bounds_the_singular_values_of_all_updates_together(dense: bool) -> None:
    """W unedited has the singular values 2 and 1, so s = 2; the updates together have 16 and 1 in turned directions.

    log_2(16 / 2) = 3, so 16 becomes 5; an earlier update of 4 along the same direction is in the 16.
    """
    angle = torch.tensor(0.3)
    first, second = torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])
    unedited = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    key, other_key = torch.tensor([0.0, 0.6, 0.8]), torch.tensor([1.0, 0.0, 0.0])
    earlier = Factors(left=4 * first[:, None], right=key[:, None])
    update = Factors(left=torch.stack([12 * first, second], 1), right=torch.stack([key, other_key], 1))
    if dense:
        earlier, update = Factors.dense(earlier.product), Factors.dense(update.product)
    bounded = prune(update, unedited + earlier.product, earlier=[earlier], base=2.0)
    torch.testing.assert_close((earlier + bounded).product, 5 * first.outer(key) + second.outer(other_key))


def test_prune_leaves_small_updates_and_makes_none_larger() -> None:
    """s = 0.5: log_1.2(0.6 / 0.5) = 1, so the published formula would make 0.6 to 1.5."""
    small = Factors(left=torch.tensor([[0.4], [0.0]]), right=torch.tensor([[1.0], [0.0]]))
    assert prune(small, 0.5 * torch.eye(2), earlier=[], base=1.2) is small
    more = Factors(left=1.5 * small.left, right=small.right)
    torch.testing.assert_close(prune(more, 0.5 * torch.eye(2), earlier=[], base=1.2).product, more.product)
