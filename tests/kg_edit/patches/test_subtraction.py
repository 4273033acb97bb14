"""Extraction before subtraction: against the equation on full matrices, and where rows are special."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.patches.factors import Factors
from kg_edit.patches.subtraction import less_extracted, subtract_patch
from kg_edit.patches.weight_patch import WeightPatch


def drawn(rows: int, columns: int, rank: int, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, rank, generator=generator) for size in (rows, columns))
    return Factors(left=left, right=right)


def published(expert: Tensor, anti: Tensor, strength: float) -> Tensor:
    """The equation as the paper has it, row by row on full matrices."""
    rows = []
    for e, a in zip(expert.double(), anti.double(), strict=True):
        s = torch.nn.functional.normalize(e, dim=0) + torch.nn.functional.normalize(a, dim=0)
        s = torch.nn.functional.normalize(s, dim=0)
        rows.append(e - strength * a + strength * (a @ s) * s)
    return torch.stack(rows).float()


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_factors_equal_the_equation_on_full_matrices(strength: float) -> None:
    expert, anti = drawn(7, 11, 3, 0), drawn(7, 11, 2, 1)
    update = less_extracted(expert, anti, strength=strength)
    assert update.rank == 5
    torch.testing.assert_close(update.product, published(expert.product, anti.product, strength), rtol=1e-4, atol=1e-5)


def test_rows_that_are_parallel_opposite_or_zero() -> None:
    """The same direction: nothing is taken. Opposite: all of it. A row of zeros: there is no direction of its own."""
    expert = Factors.dense(torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
    anti = Factors.dense(torch.tensor([[5.0, 0.0, 0.0], [-2.0, -2.0, 0.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    expected = torch.tensor([[2.0, 0.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    torch.testing.assert_close(less_extracted(expert, anti, strength=1.0).product, expected, rtol=1e-5, atol=1e-5)


def patch(seed: int, *names: str, model: str | None = None) -> WeightPatch:
    provenance = {"model": {"name": "x", "fingerprint": model}} if model else {}
    edits = [{"edit": {"id": str(seed)}}]
    factors = {name: drawn(4, 6, 2, seed + index) for index, name in enumerate(names)}
    return WeightPatch(factors=factors, provenance={**provenance, "edits": edits})


def test_patches_are_subtracted_weight_by_weight() -> None:
    """What one of them alone changes: of the expert it stays; of the anti-expert all is in common with nothing."""
    expert, anti = patch(1, "a", "b"), patch(7, "b", "c")
    difference = subtract_patch(expert, anti, strength=0.5)
    torch.testing.assert_close(difference.factors["a"].product, expert.factors["a"].product)
    expected = published(expert.factors["b"].product, anti.factors["b"].product, 0.5)
    torch.testing.assert_close(difference.factors["b"].product, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(difference.factors["c"].product, torch.zeros(4, 6), rtol=0, atol=1e-5)
    assert [edit["edit"]["id"] for edit in difference.edits] == ["1"]
    assert difference.provenance["subtracted"]["anti_expert"] == [{"id": "7"}]
    plain = subtract_patch(expert, anti, strength=0.5, extract=False)
    torch.testing.assert_close(
        plain.factors["b"].product, expert.factors["b"].product - 0.5 * anti.factors["b"].product
    )
    torch.testing.assert_close(plain.factors["c"].product, -0.5 * anti.factors["c"].product)
