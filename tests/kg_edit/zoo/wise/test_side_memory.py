"""WISE's memory by hand: random subspaces, the TIES merge, which shards are one memory, and which memory is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.wise.adapter import MemorySettings, SideMemory
from kg_edit.zoo.wise.ties import merge_by_ties
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import UNRELATED

LAYER = 2


def memory(*shards: list[list[float]], owners: list[int], activations: list[float], **settings: Any) -> SideMemory:
    return SideMemory(
        size=(2, 2),
        shards={number: torch.tensor(shard) for number, shard in enumerate(shards)},
        owners=torch.tensor(owners).float(),
        activations=torch.tensor(activations),
        settings=MemorySettings(**{"shard": 1, "density": 1.0, "ratio": 0.5, **settings}),
    )


def test_ties_trims_elects_signs_and_takes_the_mean_of_those_that_agree() -> None:
    first, second = torch.tensor([[4.0, -3.0], [0.1, 1.0]]), torch.tensor([[-1.0, -5.0], [3.0, 0.0]])
    trimmed = merge_by_ties([first, second], [0.5, 0.5], density=0.5)  # [4, -3, 0, 0] and [0, -5, 3, 0]
    assert trimmed.tolist() == [[4.0, -4.0], [3.0, 0.0]]
    untrimmed = merge_by_ties([first, second], [0.5, 0.5], density=1.0)  # 4 against -1: the larger sum gives the sign
    assert untrimmed.flatten().tolist() == pytest.approx([4.0, -4.0, 1.55, 1.0])
    weighted = merge_by_ties([first, second], [0.4, 0.6], density=1.0)
    assert weighted.flatten().tolist() == pytest.approx([4.0, 0.4 * -3 + 0.6 * -5, 0.4 * 0.1 + 0.6 * 3, 1.0])
    assert merge_by_ties([-first, second], [0.1, 0.9], density=1.0)[0, 0] == pytest.approx(0.1 * -4 + 0.9 * -1)


def test_subspaces_are_random_of_the_share_and_differ_by_shard() -> None:
    side = SideMemory.empty((100, 200), MemorySettings(share=0.2, seed=3))
    first, second = side.subspace(0), side.subspace(1)
    assert [float(mask.float().mean()) for mask in (first, second)] == pytest.approx([0.2, 0.2], abs=0.01)
    assert float((first & second).float().mean()) == pytest.approx(0.04, abs=0.01), "independent"
    assert torch.equal(first, SideMemory.empty((100, 200), MemorySettings(share=0.2, seed=3)).subspace(0))


def test_complete_groups_of_shards_are_merged_and_others_stay_alone() -> None:
    shards = ([[1.0, 0.0], [0.0, 2.0]], [[3.0, 1.0], [0.0, -4.0]], [[5.0, 5.0], [5.0, 5.0]])
    merged, alone = memory(*shards, owners=[0, 1, 2], activations=[8.0, 6.0, 4.0]).memories()
    assert merged.change.tolist() == [[2.0, 1.0], [0.0, -4.0]] and merged.threshold == 3.0
    assert alone.change.tolist() == shards[2] and alone.threshold == 2.0
    waiting = memory(*shards[:2], owners=[0, 0, 1], activations=[8.0, 6.0, 4.0], shard=2).memories()
    assert [(m.change.tolist(), m.threshold) for m in waiting] == [(shards[0], 3.0), (shards[1], 2.0)]
    assert len(memory(*shards, owners=[0, 1, 2], activations=[8.0, 6.0, 4.0], merge=1).memories()) == 3


def test_shard_with_the_edits_of_two_patches_is_no_complete_group() -> None:
    side = memory([[1.0, 0.0], [0.0, 2.0]], owners=[0], activations=[8.0], density=0.25)
    (alone,) = side.plus(side).memories()
    assert alone.change.tolist() == [[2.0, 0.0], [0.0, 4.0]], "not merged with itself, where a part of it would be lost"
    more = memory(
        [[1.0, 0.0], [0.0, 2.0]], [[3.0, 1.0], [0.0, -4.0]], owners=[0, 0, 0, 1], activations=[1.0] * 4, shard=2
    )
    assert len(more.memories()) == 2


def test_without_retrieval_all_shards_are_one_memory() -> None:
    """WISE-Merge: of the third shard 0.4, of what is merged already 0.6, as in the published program."""
    shards = ([[1.0, 0.0], [0.0, 2.0]], [[3.0, 1.0], [0.0, -4.0]], [[5.0, -5.0], [5.0, -5.0]])
    (merged,) = memory(*shards, owners=[0, 1, 2], activations=[8.0, 6.0, 4.0], retrieve=False).memories()
    expected = [0.4 * 5 + 0.6 * 2, -5.0, 5.0, 0.4 * -5 + 0.6 * -4]
    assert merged.change.flatten().tolist() == pytest.approx(expected) and merged.threshold == 2.0


def test_text_uses_the_memory_that_it_activates_most_above_its_threshold() -> None:
    """Token by token: the mean activation so far, the largest one, and its threshold."""
    model, draw = tiny("llama"), torch.Generator().manual_seed(1)
    rows, columns = model.down_projection(LAYER).weight.shape
    shards = {number: 0.5 * torch.randn(rows, columns, generator=draw) for number in (0, 1)}
    inputs, clean = read(model)
    norms = torch.stack([(inputs @ shard.T).norm(dim=-1) for shard in shards.values()], 1)  # [tokens, memories]
    means = [norms[: end + 1].mean(0) for end in range(len(norms))]
    least = float(torch.stack([mean.max() for mean in means]).median())  # half of the tokens are above
    side = SideMemory(
        size=(rows, columns),
        shards=shards,
        owners=torch.tensor([0.0, 1.0]),
        activations=torch.tensor([least, least]),
        settings=MemorySettings(shard=2, ratio=1.0),
    )
    with side.attached(model, LAYER, model.device):
        _, edited = read(model)
    used = [bool(mean.max() > least) for mean in means]
    assert {True, False} == set(used)
    for x, mean, before, after, acts in zip(inputs, means, clean, edited, used, strict=True):
        if acts:
            torch.testing.assert_close(after, before + shards[int(mean.argmax())] @ x, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(after, before)


@torch.no_grad()
def read(model: LanguageModel) -> tuple[Tensor, Tensor]:
    """The inputs and the outputs of the down-projection in a text, [tokens, d_ff] and [tokens, d]."""
    seen: list[tuple[Tensor, Tensor]] = []
    with watch(model.down_projection(LAYER), lambda x, y: seen.append((x[0], y[0]))):
        model.model(torch.tensor([model.encode(UNRELATED).ids]))
    return seen[0]


def test_memory_is_read_as_it_was_stored() -> None:
    side = memory([[1.0, 0.0], [0.0, 2.0]], owners=[0], activations=[8.0])
    again = SideMemory.read(side.metadata(), side.tensors())
    assert torch.equal(again.shards[0], side.shards[0]) and again.settings == side.settings
