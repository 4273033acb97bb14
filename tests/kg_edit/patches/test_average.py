"""Averages of patches: the weighted sum by hand, every edit once, and what can't be averaged."""

from __future__ import annotations

import re

import pytest
import torch

from kg_edit.patches.average import average_patches
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch


def patch(method: str, value: float, *ids: str, weights: str = "w", model: str = "2-x") -> WeightPatch:
    edits = [{"edit": {"id": id_}, "method": method, "batch": len(ids)} for id_ in ids]
    provenance = {"model": {"fingerprint": model}, "methods": [{"name": method}], "edits": edits}
    factors = {name: Factors(left=torch.tensor([[value], [0.0]]), right=torch.ones(3, 1)) for name in weights}
    return WeightPatch(factors=factors, provenance=provenance, state={"key": torch.ones(3, len(ids))})


def test_average_is_the_weighted_sum_with_every_edit_once() -> None:
    average = average_patches(
        [patch("memit", 2.0, "1", "2", weights="wu"), patch("ft-m", 10.0, "2", "3", weights="wv")], [0.5, 0.25]
    )
    tops = {name: pair.product[0, 0].item() for name, pair in average.factors.items()}
    assert tops == {"w": 3.5, "u": 1.0, "v": 2.5}
    assert [(edit["edit"]["id"], edit["method"]) for edit in average.edits] == [
        ("1", "memit"),
        ("2", "memit + ft-m"),
        ("3", "ft-m"),
    ]
    assert [(part["share"], part["edits"]) for part in average.provenance["averaged"]] == [(0.5, 2), (0.25, 2)]
    assert [method["name"] for method in average.provenance["methods"]] == ["memit", "ft-m"]
    assert not average.state, "the keys of one method's edits say nothing about the sum"
    again = average_patches([patch("memit", 1.0, "1", "2", "3"), average], [0.5, 0.5])
    assert [edit["method"] for edit in again.edits] == ["memit", "memit + ft-m", "memit + ft-m"]


@pytest.mark.parametrize(
    ("ids", "shares", "told"),
    [
        (("2", "3"), (0.5, 0.25), "2 of 3 edits are not in every patch and get less than .* '1' \\(0.5 of it\\)"),
        (("2", "3"), (1.0, 0.25), "1 of 3 edits .* '3' \\(0.25 of it\\)"),
        (("2", "3"), (1.0, 1.0), ""),
        (("1", "2"), (0.4, 0.4), ""),
    ],
)
def test_edits_that_an_average_weakens_are_named(
    ids: tuple[str, ...], shares: tuple[float, ...], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    average_patches([patch("rome", 1.0, "1", "2"), patch("memit", 1.0, *ids)], shares)
    assert re.match(told, caplog.messages[0]) if told else not caplog.messages
