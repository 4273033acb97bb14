"""MEMOIR: each edit predicts its target with its own columns, and other text opens none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.zoo.memoir.adapter import ResidualMemory
from kg_edit.zoo.memoir.method import Memoir, MemoirConfig
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, UNRELATED, adapter_of, logits, predicts


def memoir(model: LanguageModel, **settings: Any) -> Memoir:
    quick = {"layer": 2, "steps": 60, "learning_rate": 0.02, "threshold": 0.8, "background_texts": 4}
    return Memoir(model, MemoirConfig.preset("default", {**quick, **settings}))


def memory_of(patch: Patch) -> ResidualMemory:
    return adapter_of(patch, ResidualMemory)


@pytest.mark.slow
def test_memoir_predicts_targets_and_leaves_other_text() -> None:
    model = tiny("llama")
    clean = logits(model, UNRELATED)
    assert not any(predicts(model, edit) for edit in EDITS)
    patch = memoir(model).edit(EDITS)
    with patch.applied(model):
        assert [predicts(model, edit) for edit in EDITS] == [True] * 3
        assert torch.equal(logits(model, UNRELATED), clean)
    assert "3 masks of 14 columns" in patch.summary


def test_edit_changes_only_the_columns_of_its_mask() -> None:
    model = tiny("llama")
    memory = memory_of(memoir(model).edit(EDITS[:1]))
    changed = memory.weight.abs().sum(0).nonzero()[:, 0]
    assert set(changed.tolist()) <= set(memory.masks[0].int().tolist()) and len(changed)


@pytest.mark.slow
def test_later_edit_is_trained_on_the_earlier() -> None:
    model = tiny("llama")
    chosen = memoir(model, columns=1.0)  # all share all columns
    first = chosen.edit(EDITS[:1])
    after, alone = chosen.edit(EDITS[1:2], before=first), chosen.edit(EDITS[1:2])
    assert not torch.equal(memory_of(after).weight, memory_of(alone).weight)
    assert torch.equal(memory_of(first + after).weight, memory_of(first).weight + memory_of(after).weight)


@pytest.mark.slow
def test_mask_of_all_columns_is_always_open() -> None:
    model = tiny("llama")
    clean = logits(model, UNRELATED)
    with memoir(model, columns=1.0).edit(EDITS[:1]).applied(model):
        assert not torch.equal(logits(model, UNRELATED), clean)
