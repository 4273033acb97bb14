"""MELO: the prompt predicts its target, other text is unchanged bit for bit, and each edit is made as if alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.melo.blocks import BlockPatch, Blocks
from kg_edit.zoo.melo.method import Melo, MeloConfig
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.patches.test_base import patch_of
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, UNRELATED, logits, predicts


def melo(model: LanguageModel, **settings: Any) -> Melo:
    return Melo(model, MeloConfig.preset("default", {"layer": 2, "steps": 60, "learning_rate": 0.05, **settings}))


def blocks_of(patch: Patch) -> Blocks:
    assert isinstance(patch, BlockPatch)
    (book,) = patch.codebooks.values()
    assert isinstance(book, Blocks)
    return book


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2"]))
@pytest.mark.slow
def test_melo_predicts_targets_and_leaves_other_text(family: str) -> None:
    model = tiny(family)
    clean = logits(model, UNRELATED)
    assert not any(predicts(model, edit) for edit in EDITS)
    patch = melo(model).edit(EDITS)
    with patch.applied(model):
        assert [predicts(model, edit) for edit in EDITS] == [True] * 3
        assert torch.equal(logits(model, UNRELATED), clean)
    assert all(record["loss_after"] < record["loss_before"] for record in patch.edits)
    assert blocks_of(patch).values.shape[:2] == (3, 2), "one block of two ranks for each edit"


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_recorded_loss_is_the_scored_loss(family: str) -> None:
    """In a tree with another answer, and with a target of several tokens, of which the later ones use the block too."""
    model, edit = tiny(family), EDITS[1].model_copy(update={"target_new": "London on the river"})
    patch, pair = melo(model, layer=1, steps=10).edit([edit]), Pair(edit.text, edit.target_new)
    with patch.applied(model):
        scored = score(model, [pair, Pair(edit.text, "Paris"), Pair(f"{edit.text} not", "Paris")])
    assert scored[pair].nll == pytest.approx(patch.edits[0]["loss_after"], abs=1e-4)


def test_edit_is_made_as_if_it_were_alone() -> None:
    """After other blocks or GRACE's entries, the same key and block; earlier patches of weights are active."""
    model = tiny("llama")
    chosen, grace = melo(model, steps=5), find_method("grace").on(model, settings=QUICK["grace"])
    alone, first = blocks_of(chosen.edit(EDITS[1:2])), chosen.edit(EDITS[:1])
    for before in (first, grace.edit(EDITS[:1])):
        after = blocks_of(chosen.edit(EDITS[1:2], before=before))
        assert torch.equal(after.keys, alone.keys) and torch.equal(after.values, alone.values)
    weights = patch_of(model)
    moved, stacked = (blocks_of(chosen.edit(EDITS[1:2], before=base)) for base in (weights, weights + first))
    assert torch.equal(moved.values, stacked.values) and not torch.equal(moved.values, alone.values)


@pytest.mark.slow
def test_wide_cluster_reaches_other_prompts() -> None:
    model = tiny("llama")
    near, wide = (melo(model, deferral={"radius": radius}).edit(EDITS[:1]) for radius in (1e-3, 1e3))
    clean = logits(model, UNRELATED)
    with near.applied(model):
        assert torch.equal(logits(model, UNRELATED), clean)
    with wide.applied(model):
        changed = logits(model, UNRELATED)
    assert torch.equal(changed[:-1], clean[:-1]) and not torch.allclose(changed[-1], clean[-1], atol=1e-3)


@pytest.mark.slow
def test_key_within_a_longer_prompt_is_met_with_every_token_only() -> None:
    model, longer = tiny("llama"), f"{EDITS[0].text} the team of"
    clean = logits(model, longer)
    for lookup, met in (("prompt-end", False), ("every-token", True)):
        with melo(model, deferral={"lookup": lookup}).edit(EDITS[:1]).applied(model):
            assert predicts(model, EDITS[0])
            assert torch.equal(logits(model, longer), clean) is not met


def test_radius_alone_leaves_the_other_rules() -> None:
    settings = ({"deferral.radius": 2.0}, {"deferral": {"radius": 2.0}}, {"deferral": {"expand": "widen"}})
    rules = [MeloConfig.preset("default", each).deferral for each in settings]
    assert [(rule.radius, rule.expand) for rule in rules] == [(2.0, "mean"), (2.0, "mean"), (1.0, "widen")]


def test_seed_changes_the_start() -> None:
    model = tiny("llama")
    values = [blocks_of(melo(model, seed=seed, steps=1).edit(EDITS[:1])).values for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
