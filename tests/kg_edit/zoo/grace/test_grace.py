"""GRACE: the prompt predicts its target, other text is unchanged, and each edit is made as if it were alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.grace.codebook import Codebook
from kg_edit.zoo.grace.method import Grace, GraceConfig
from kg_edit.zoo.grace.patch import CodebookPatch
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.patches.test_base import patch_of
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, logits, predicts


def grace(model: LanguageModel, **settings: Any) -> Grace:
    return Grace(model, GraceConfig.preset("default", {"layer": 2, "steps": 60, **settings}))


def book_of(patch: Patch) -> Codebook:
    assert isinstance(patch, CodebookPatch)
    (book,) = patch.codebooks.values()
    return book


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2"]))
def test_grace_predicts_targets_and_leaves_other_text(family: str) -> None:
    model = tiny(family)
    unrelated = "The quick brown fox jumps over"
    clean = logits(model, unrelated)
    assert not any(predicts(model, edit) for edit in EDITS)
    patch = grace(model).edit(EDITS)
    with patch.applied(model):
        assert [predicts(model, edit) for edit in EDITS] == [True] * 3
        assert torch.equal(logits(model, unrelated), clean)
    assert all(record["loss_after"] < record["loss_before"] for record in patch.edits)


@pytest.mark.parametrize("family", keep_first(["llama", "falcon"]))
@pytest.mark.slow
def test_recorded_loss_is_the_scored_loss(family: str) -> None:
    model, edit = tiny(family), EDITS[1]
    patch, pair = grace(model, layer=1).edit([edit]), Pair(edit.text, edit.target_new)
    with patch.applied(model):
        assert score(model, [pair])[pair].nll == pytest.approx(patch.edits[0]["loss_after"], abs=1e-4)


@pytest.mark.parametrize("name", keep_first(["ft-m", "mend", "memoe", "t-patcher", "memoir", "calinet"]))
@pytest.mark.slow
def test_later_method_is_trained_with_the_codebook(name: str) -> None:
    """The loss that it starts from, with a target of several tokens, is the one that the edited model scores."""
    model = tiny("llama")
    edit = EDITS[0].model_copy(update={"target_new": "Miami Heat and London"})
    first = grace(model).edit([edit.model_copy(update={"id": "g", "target_new": "Paris in the river"})])
    with first.applied(model) as edited:
        (scored,) = score(edited, [Pair(edit.text, edit.target_new)]).values()
    chosen = find_method(name)
    patch = chosen(model, chosen.config_class.preset("default", QUICK[name])).edit([edit], start=first)
    record = patch.edits[-1]
    assert record["nll_before" if name == "mend" else "loss_before"] == pytest.approx(scored.nll, abs=1e-3)


@pytest.mark.slow
def test_rome_below_a_codebook_in_the_last_block() -> None:
    """The codebook counts the tokens of its block, so that block's MLP may not run on fewer of them."""
    model = tiny("llama")
    rome = find_method("rome").on(model, settings=QUICK["rome"])
    first, alone = grace(model, layer=3).edit(EDITS[:1]), rome.edit(EDITS[1:2])
    update = rome.edit(EDITS[1:2], before=first)  # no prompt of this edit lies in the ball of the first one
    assert isinstance(update, WeightPatch) and isinstance(alone, WeightPatch)
    for name, pair in alone.factors.items():
        torch.testing.assert_close(update.factors[name].product, pair.product, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_edit_is_made_as_if_it_were_alone() -> None:
    """Together, after others, or by itself: the same key and value; what was before has no part in it."""
    model = tiny("llama")
    chosen = grace(model)
    together, first = book_of(chosen.edit(EDITS)), chosen.edit(EDITS[:1])
    for entry, edit in enumerate(EDITS[1:], 1):
        alone, after = book_of(chosen.edit([edit])), book_of(chosen.edit([edit], before=first))
        assert torch.equal(alone.keys, after.keys) and torch.equal(alone.values, after.values)
        torch.testing.assert_close(together.keys[entry], alone.keys[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.values[entry], alone.values[0], rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_earlier_weights_are_active_in_training_and_codebooks_are_not() -> None:
    model = tiny("llama")
    chosen, weights = grace(model), patch_of(model)
    first = chosen.edit(EDITS[:1])
    alone, after = book_of(chosen.edit(EDITS[1:2])), book_of(chosen.edit(EDITS[1:2], before=weights))
    stacked = book_of(chosen.edit(EDITS[1:2], before=weights + first))
    assert torch.equal(stacked.keys, after.keys) and torch.equal(stacked.values, after.values)
    assert not torch.equal(alone.keys, after.keys)


@pytest.mark.slow
def test_later_of_contradictory_edits_is_active_until_removed() -> None:
    model = tiny("llama")
    other = EDITS[0].model_copy(update={"id": "other", "target_new": "Paris"})
    patch = grace(model).edit([EDITS[0], other])
    with patch.applied(model):
        assert (predicts(model, EDITS[0]), predicts(model, other)) == (False, True)
    assert isinstance(patch, CodebookPatch)
    with patch.without(["other"]).applied(model):
        assert (predicts(model, EDITS[0]), predicts(model, other)) == (True, False)


@pytest.mark.slow
def test_repeated_edit_adds_no_key() -> None:
    model = tiny("llama")
    patch = grace(model).edit([EDITS[0], EDITS[0].model_copy(update={"id": "again"})])
    assert "1 key for 2 edits" in patch.summary
    assert isinstance(patch, CodebookPatch)
    with patch.without(["1"]).applied(model):
        assert predicts(model, EDITS[0]), "the second one's own entry takes over"


def test_cold_start_has_a_seed() -> None:
    model = tiny("llama")
    before = torch.get_rng_state()
    values = [book_of(grace(model, start="cold", seed=seed, steps=1).edit(EDITS[:2])).values for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert float(values[0].min()) > -1e-5 and float(values[0].max()) < 1 + 1e-5
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_key_within_a_longer_prompt_is_met_with_every_token_only() -> None:
    model, longer = tiny("llama"), f"{EDITS[0].text} the team of"
    clean = logits(model, longer)
    for lookup, met in (("prompt-end", False), ("every-token", True)):
        with grace(model, deferral={"lookup": lookup}).edit(EDITS[:1]).applied(model):
            assert predicts(model, EDITS[0])
            assert torch.equal(logits(model, longer), clean) is not met


@pytest.mark.slow
def test_correction_is_active_in_half_precision() -> None:
    """In bfloat16 the key of a prompt moves with the batch; it is still the same prompt."""
    exact = tiny("llama")
    model = LanguageModel.wrap(copy.deepcopy(exact.model).to(torch.bfloat16), exact.tokenizer, name="half")
    first = grace(model).edit(EDITS)
    for edit in EDITS:
        pair = Pair(edit.text, "Heat")
        both = grace(model).edit([edit.model_copy(update={"id": "later", "target_new": "Heat"})], start=first)
        with both.applied(model) as edited:
            alone = score(edited, [pair])[pair].nll
            packed = score(edited, [pair, *(Pair(other.text, "Heat") for other in EDITS)])[pair].nll
        assert alone < 1 and packed < 1
