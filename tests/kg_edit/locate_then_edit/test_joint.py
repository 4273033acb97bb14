"""The closed forms by hand, and against the formulas as they are published."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.errors import CovarianceError, PatchError
from kg_edit.locate_then_edit.joint import joint_directions
from kg_edit.methods.alphaedit.method import find_null_space


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(moment: Tensor) -> Covariance:
    return Covariance(moment=moment, tokens=9, ridge=0.0, id="toy")


def full(size: int) -> Tensor:
    rows = draw(size, 3 * size, seed=1)
    return rows @ rows.T / (3 * size)


def test_joint_directions_by_hand() -> None:
    """C = diag(1, 4), k = (2, 4), lambda = 3: C^-1 k = (2, 1), k C^-1 k = 8, so (2, 1) / 11."""
    keys = torch.tensor([[2.0], [4.0]])
    solved = covariance(torch.diag(torch.tensor([1.0, 4.0]))).solve(keys)
    torch.testing.assert_close(solved, torch.tensor([[2.0], [1.0]]).double())
    directions = joint_directions(keys, solved, weight=3.0)
    torch.testing.assert_close(directions, torch.tensor([[2.0], [1.0]]).double() / 11)


@pytest.mark.parametrize("edits", [1, 4, 12, 13, 30])
def test_memit_solves_the_published_system(edits: int) -> None:
    """(lambda C + K K^T)^-1 K, whether there are fewer edits than d_ff = 12 or more."""
    moment, keys = full(12), draw(12, edits)
    published = torch.linalg.solve(20 * moment + keys @ keys.T, keys)
    directions = joint_directions(keys, covariance(moment).solve(keys), weight=20.0)
    assert (directions - published).norm() < 1e-6 * published.norm()


@pytest.mark.parametrize("weight", [1e-6, 20.0])
def test_more_facts_than_inputs_get_a_part_of_their_change(weight: float) -> None:
    """The mean of k^T U is at most d_ff / facts: 12 / 48, nearly reached without a counterweight."""
    moment, keys = full(12), draw(12, 48)
    shares = (keys * joint_directions(keys, covariance(moment).solve(keys), weight=weight)).sum(0)
    assert shares.mean() <= 12 / 48
    assert (shares.mean() > 0.999 * 12 / 48) == (weight < 1)


def test_emmet_update_is_the_smallest_that_is_exact_for_every_key() -> None:
    """D K = R; and of all such D it is the smallest as C weighs it."""
    moment, keys, residuals = full(8), draw(8, 3), draw(5, 3, seed=2)
    update = residuals @ joint_directions(keys, covariance(moment).solve(keys), weight=0.0).T
    torch.testing.assert_close(update @ keys, residuals)
    other = draw(5, 8, seed=3)
    other = other - other @ keys @ torch.linalg.pinv(keys)  # adds nothing to D K
    assert torch.trace((update + other) @ moment @ (update + other).T) > torch.trace(update @ moment @ update.T)


@pytest.mark.parametrize("edits", [2, 9])
def test_alphaedit_solves_the_published_system(edits: int) -> None:
    """(P (K_p K_p^T + K K^T) + L2 I)^-1 P K, with P from the eigenvectors below the threshold."""
    keys, earlier = draw(10, edits), draw(10, 4, seed=7)
    rows = draw(10, 6, seed=3)
    moment = rows @ rows.T
    space = find_null_space(covariance(moment), threshold=1e-6)
    basis = torch.linalg.svd(rows)[0][:, 6:]  # orthogonal to all that C was measured from
    projection = basis @ basis.T
    assert space.free == 4
    published = torch.linalg.solve(
        projection @ (keys @ keys.T + earlier @ earlier.T) + 0.5 * torch.eye(10).double(), projection @ keys
    )
    all_keys = torch.cat([keys, earlier], 1)
    directions = joint_directions(all_keys, space.project(all_keys), weight=0.5, count=edits)
    torch.testing.assert_close(directions, published)
    assert (draw(5, edits) @ directions.T @ rows).abs().max() < 1e-9  # keys that C has seen are answered as before


def test_null_space_threshold_is_relative_or_absolute() -> None:
    moment = covariance(torch.diag(torch.tensor([8.0, 1.0, 0.1, 0.01])))  # mean 2.2775
    assert find_null_space(moment, threshold=0.5).free == 3
    assert find_null_space(moment, threshold=0.5, relative=False).free == 2
    assert find_null_space(moment, threshold=0.01).free == 1
    kept = find_null_space(moment, threshold=0.5).project(torch.ones(4, 1))
    torch.testing.assert_close(kept.abs(), torch.tensor([[0.0], [1.0], [1.0], [1.0]]).double())
    with pytest.raises(CovarianceError, match="no direction"):
        find_null_space(moment, threshold=1e-6)


def test_eigenvectors_that_a_device_can_not_compute_are_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is ``meta``, which has no numbers, so that only the CPU can have computed them."""

    def full(matrix: Tensor) -> tuple[Tensor, Tensor]:
        if matrix.is_meta:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return eigh(matrix)

    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", full)
    monkeypatch.setattr("kg_edit.methods.alphaedit.method.has_fast_float64", lambda device: True)
    moment = covariance(torch.diag(torch.tensor([8.0, 1.0])))
    assert find_null_space(moment, threshold=1.0, device=torch.device("meta")).used.tolist() == [[1.0], [0.0]]


def test_projection_in_float32_is_that_of_float64_up_to_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    moment, keys = covariance(full(60)), draw(60, 5)
    exact = find_null_space(moment, threshold=1.0).project(keys)
    monkeypatch.setattr("kg_edit.methods.alphaedit.method.has_fast_float64", lambda device: False)
    rough = find_null_space(moment, threshold=1.0)
    assert rough.used.dtype == torch.float32 and rough.project(keys).dtype == torch.float64
    assert (rough.project(keys) - exact).norm() < 1e-4 * keys.norm()


def test_equal_keys_without_relaxation_are_refused() -> None:
    keys = draw(6, 2)[:, [0, 1, 0]]
    solved = covariance(full(6)).solve(keys)
    with pytest.raises(PatchError, match="are linearly dependent"):
        joint_directions(keys, solved, weight=0.0)
    assert torch.isfinite(joint_directions(keys, solved, weight=1.0)).all()


def test_keys_with_nan_are_refused() -> None:
    keys = draw(6, 2)
    keys[0, 0] = float("nan")
    with pytest.raises(PatchError, match="not finite"):
        joint_directions(keys, keys, weight=1.0)
