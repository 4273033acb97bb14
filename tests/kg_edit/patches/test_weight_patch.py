"""What a subtraction of weight patches leaves of their states."""

from __future__ import annotations

import pytest
import torch

from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch


def test_subtracted_edit_leaves_the_state() -> None:
    """Else AlphaEdit would protect the keys of a removed edit; equal columns of another edit stay."""
    pair = Factors(left=torch.ones(4, 1), right=torch.ones(6, 1))
    first, second = (
        WeightPatch(factors={"w": pair}, state={"key/w": torch.tensor([[1.0], [value]])}) for value in (2.0, 3.0)
    )
    remaining = first + second + first - second
    assert isinstance(remaining, WeightPatch) and remaining.state["key/w"].tolist() == [[1.0, 1.0], [2.0, 2.0]]
    again = first + first - first
    assert isinstance(again, WeightPatch) and again.state["key/w"].tolist() == [[1.0], [2.0]]


def test_columns_of_a_state_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0]])
    first, second = (
        WeightPatch(factors={"w": Factors(left=torch.ones(2, 1), right=torch.ones(2, 1))}, state={"key/w": keys})
        for keys in (columns, columns[:, [0, 3, 4]])
    )
    monkeypatch.setattr(torch, "equal", lambda *_: pytest.fail("quadratic in the edits"))
    difference = first - second
    assert isinstance(difference, WeightPatch) and difference.state["key/w"].tolist() == [[1.0, 2.0]]
