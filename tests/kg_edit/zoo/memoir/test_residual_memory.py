"""MEMOIR's memory by hand: masks of the largest deviations, the nearest one opens, and only its columns act."""

from __future__ import annotations

import torch
from torch import Tensor

from kg_edit.zoo.memoir.adapter import MaskSettings, ResidualMemory

SETTINGS = MaskSettings(columns=1 / 3, threshold=0.75, seed=0)


def memory(*masks: list[int], weight: Tensor | None = None, settings: MaskSettings = SETTINGS) -> ResidualMemory:
    return ResidualMemory(
        weight=torch.zeros(3, 6) if weight is None else weight,
        masks=torch.tensor(masks, dtype=torch.float32).reshape(-1, 2),
        background=torch.zeros(6),
        settings=settings,
    )


def hashed(*columns: int) -> list[int]:
    """Where the permutation of this seed puts columns, in order."""
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    return sorted(int(order[column]) for column in columns)


def test_mask_is_the_permuted_places_of_the_largest_deviations() -> None:
    means = torch.tensor([[0.0, -5.0, 1.0, 4.0, 0.0, 0.0], [9.0, 8.0, 0.0, 0.0, 0.0, 0.0]])
    assert memory().make_masks(means).tolist() == [hashed(1, 3), hashed(0, 1)]
    shifted = ResidualMemory(
        weight=torch.zeros(3, 6),
        masks=torch.zeros(0, 2),
        background=torch.tensor([9.0, 0, 3.0, 0, 0, 0]),
        settings=SETTINGS,
    )
    assert shifted.make_masks(means)[1].tolist() == hashed(1, 2), "the first column equals the background"


def test_nearest_mask_opens_from_the_threshold_on() -> None:
    residual = memory(hashed(0, 1), hashed(1, 3), settings=MaskSettings(columns=1 / 3, threshold=0.5, seed=0))
    bits = residual.to_bits(residual.masks)
    means = torch.tensor([[0.0, 5.0, 0, 4.0, 0, 0], [0.0, 0, 0, 0, 5.0, 4.0], [5.0, 0, 4.0, 0, 0, 0]])
    opened = residual.choose_masks(means, bits)
    assert opened[0].nonzero()[:, 0].tolist() == hashed(1, 3)
    assert not opened[1].any()
    assert opened[2].nonzero()[:, 0].tolist() == hashed(0, 1), "half of it is enough"
    strict = memory(hashed(0, 1), hashed(1, 3))
    assert not strict.choose_masks(means[2:], bits).any()


def test_latest_of_equally_near_masks_opens() -> None:
    residual = memory(hashed(0, 1), hashed(0, 2), settings=MaskSettings(columns=1 / 3, threshold=0.5, seed=0))
    opened = residual.choose_masks(torch.tensor([[5.0, 0, 0, 4.0, 0, 0]]), residual.to_bits(residual.masks))
    assert opened[0].nonzero()[:, 0].tolist() == hashed(0, 2)


def test_memories_add() -> None:
    first = memory([0, 1], weight=torch.ones(3, 6))
    both = first.plus(memory([2, 3], weight=torch.ones(3, 6)))
    assert torch.equal(both.weight, 2 * torch.ones(3, 6)) and both.masks.tolist() == [[0, 1], [2, 3]]


def test_memory_is_read_as_it_was_stored() -> None:
    residual = memory([0, 1])
    again = ResidualMemory.read(residual.metadata(), residual.tensors())
    assert torch.equal(again.masks, residual.masks) and again.settings == SETTINGS
