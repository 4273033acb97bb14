"""Edits, patches and methods for the tests of ledgers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kg_edit.edits.edit import Edit
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch

NAMES = ("LeBron", "Dwyane", "Spike", "Eiffel", "Paris", "Thames", "London", "Miami", "Lakers", "France")
PLACES = ("Rome", "London", "Paris", "Miami", "Los Angeles")


def edits_of(count: int, *, start: int = 0) -> tuple[Edit, ...]:
    """So many edits about different subjects."""
    return tuple(
        Edit(
            id=f"e{number}",
            subject=f"{NAMES[number % 10]} {'abcdefghijklmnop'[number // 10]}{number}",
            prompt="{} originates from",
            target_new=PLACES[number % 5],
            target_true=PLACES[(number + 1) % 5],
            relation="place of origin",
        )
        for number in range(start, start + count)
    )


def made_up(edits: Sequence[Edit], *, size: float = 1.0, model: str = "toy", weight: str = "w.weight") -> WeightPatch:
    """A patch with one random column an edit, for a model [4, 6] that is nowhere."""
    draw = torch.Generator().manual_seed(int(edits[0].id[1:]))
    right = torch.nn.functional.normalize(torch.randn(6, len(edits), generator=draw), dim=0)
    left = size * torch.nn.functional.normalize(torch.randn(4, len(edits), generator=draw), dim=0)
    records = [{"edit": edit.model_dump(mode="json", exclude_defaults=True), "method": "rome"} for edit in edits]
    provenance = {
        "model": {"name": model, "fingerprint": model},
        "methods": [{"name": "rome", "config": {}}],
        "edits": records,
    }
    return WeightPatch(factors={weight: Factors(left=left, right=right)}, provenance=provenance)


def product(patch: Patch) -> torch.Tensor:
    """The change of the only weight, [out, in]."""
    assert isinstance(patch, WeightPatch)
    (pair,) = patch.factors.values()
    return pair.product


def same(one: Patch, other: Patch) -> bool:
    """Whether two patches of weights are the same bits in factors, state and records."""
    assert isinstance(one, WeightPatch) and isinstance(other, WeightPatch)
    if one.factors.keys() != other.factors.keys() or one.state.keys() != other.state.keys():
        return False
    pairs = [(pair.left, other.factors[name].left) for name, pair in one.factors.items()]
    pairs += [(pair.right, other.factors[name].right) for name, pair in one.factors.items()]
    pairs += [(tensor, other.state[name]) for name, tensor in one.state.items()]
    return all(torch.equal(mine, its) for mine, its in pairs) and one.edits == other.edits
