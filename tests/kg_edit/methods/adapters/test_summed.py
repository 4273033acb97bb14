"""Memory and Defer: the edits are said, in a sequence too, and their gates and slots are what the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.methods import find_method
from kg_edit.methods.adapters.summed import SummedSide
from kg_edit.methods.defer.adapter import DeferralSettings, DeferringGate
from kg_edit.methods.defer.method import Defer, DeferConfig
from kg_edit.methods.grace.patch import CodebookPatch
from kg_edit.methods.memory.adapter import MemoryNetwork, MemorySettings
from kg_edit.methods.memory.method import Memory, MemoryConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_patch import SidePatch
from kg_edit.patches.base import Patch, PatchStack
from kg_edit.scoring.likelihood import Pair, score
from tests.kg_edit.methods.adapters.edits import EDITS, UNRELATED, logits, said
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny


def defer(model: LanguageModel, **settings: Any) -> Defer:
    quick = {"layer": 2, "steps": 60, "learning_rate": 0.02, "texts": 8}
    return Defer(model, DeferConfig.preset("default", {**quick, **settings}))


def memory(model: LanguageModel, **settings: Any) -> Memory:
    return Memory(model, MemoryConfig.preset("default", {"layer": 2, "steps": 60, **settings}))


def side_of(patch: Patch) -> SummedSide:
    assert isinstance(patch, SidePatch)
    (side,) = patch.sides.values()
    assert isinstance(side, SummedSide)
    return side


def test_a_gate_by_hand() -> None:
    """Open from the threshold on; in training a mixture; a copied layer adds to the old one's answer."""
    gate = DeferringGate.empty((2, 1), DeferralSettings())
    own = {
        "gate": torch.tensor([[1.0]]),
        "bias": torch.tensor([[0.0]]),
        "layer": torch.tensor([[10.0], [0.0]]),
        "offset": torch.tensor([[0.0], [1.0]]),
    }
    inputs, output = torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0, 3.0], [3.0, 3.0]])
    assert gate.answer(own, inputs, output).tolist() == [[13.0, 4.0], [3.0, 3.0]]
    mixed = gate.answer(own, inputs, output, training=True)
    share = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(mixed[0], torch.stack([3 + 10 * share, 3 + share]))
    fresh = DeferringGate.empty((2, 1), DeferralSettings(copied=False))
    assert fresh.answer(own, inputs, output).tolist() == [[10.0, 1.0], [3.0, 3.0]]


def test_slots_by_hand() -> None:
    """Attention over two slots, of which one has the key."""
    network = MemoryNetwork.empty((2, 1), MemorySettings(slots=2))
    own = {
        "keys": torch.tensor([[1.0], [0.0]]),
        "bias": torch.zeros(2, 1),
        "values": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    }
    inputs = torch.tensor([[0.0], [torch.log(torch.tensor(3.0))]])
    answer = network.answer(own, inputs, torch.zeros(2, 2))
    torch.testing.assert_close(answer, torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    own["bias"] = torch.tensor([[0.0], [float(inputs[1, 0])]])  # the second slot counts three times as much
    answer = network.answer(own, inputs, torch.zeros(2, 2))
    torch.testing.assert_close(answer, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))


def test_the_gates_loss_by_hand() -> None:
    """It opens where a target is predicted, and stays shut elsewhere: softplus(-z) here, softplus(z) there."""
    method, gate = defer(tiny("llama"), gate_weight=2.0, texts=1), DeferringGate.empty((2, 1), DeferralSettings())
    own = {"gate": torch.tensor([[1.0]]), "bias": torch.tensor([[0.0]])}
    vars(method)["elsewhere"] = torch.tensor([[-2.0], [0.0]])
    found = method.penalty(gate, own, torch.tensor([[3.0]]))
    shut, opened = (
        [torch.log1p(torch.exp(torch.tensor(z))) for z in (-2.0, 0.0)],
        torch.log1p(torch.exp(torch.tensor(-3.0))),
    )
    torch.testing.assert_close(found, 2.0 * (sum(shut) / 2 + opened))


@pytest.mark.slow
def test_defer_says_its_edits_and_stays_shut_elsewhere() -> None:
    model = tiny("llama")
    clean = logits(model, UNRELATED)
    patch = defer(model).edit(EDITS[:1])
    with patch.applied(model):
        assert said(model, EDITS[0])
    side = side_of(patch)
    assert isinstance(side, DeferringGate)
    elsewhere = defer(model).elsewhere
    open_share = float((side.openness(side.parameters(model.device), elsewhere) > 0).float().mean())
    assert open_share < 0.1
    shut = defer(model, threshold=0.999999)
    with shut.edit(EDITS[:1]).applied(model):
        assert torch.equal(logits(model, UNRELATED), clean), "a gate that never opens changes nothing"


def test_a_memory_answers_for_every_text() -> None:
    model = tiny("llama")
    clean = logits(model, UNRELATED)
    patch = memory(model).edit(EDITS[:1])
    with patch.applied(model):
        assert said(model, EDITS[0])
        assert not torch.equal(logits(model, UNRELATED), clean)


@pytest.mark.slow
def test_frozen_values_stay_as_they_were_drawn() -> None:
    changes = side_of(memory(tiny("llama"), frozen_values=True, steps=3).edit(EDITS[:1])).changes
    assert not changes["values"].any() and changes["keys"].any()
    assert side_of(memory(tiny("llama"), steps=3).edit(EDITS[:1])).changes["values"].any()


@pytest.mark.slow
def test_later_edits_go_on_from_the_earlier(tmp_path: Path) -> None:
    model = tiny("llama")
    chosen = memory(model, steps=8)
    first = chosen.edit(EDITS[:1])
    update = chosen.update(EDITS[1:2], before=first)
    whole = chosen.edit(EDITS[1:2], start=first)
    for name, tensor in side_of(whole).changes.items():
        assert torch.equal(tensor, side_of(first).changes[name] + side_of(update).changes[name])
    pair = Pair(EDITS[1].text, EDITS[1].target_new)
    with first.applied(model) as edited:
        scored = score(edited, [pair])[pair].nll
    assert update.edits[0]["loss_before"] == pytest.approx(scored, abs=1e-3), "not that of the unedited model"
    assert scored != pytest.approx(score(model, [pair])[pair].nll, abs=1e-2)
    again = Patch.load(whole.save(tmp_path / "patch.safetensors"))
    assert side_of(again).settings == side_of(whole).settings
    for name, tensor in side_of(whole).changes.items():
        assert torch.equal(side_of(again).changes[name], tensor)


def test_other_settings_do_not_add_and_broken_files_are_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    one, other = memory(model, steps=1).edit(EDITS[:1]), memory(model, steps=1, slots=7).edit(EDITS[1:2])
    with pytest.raises(PatchError, match="make both with the same settings"):
        one + other
    side = side_of(one)
    with pytest.raises(ValueError, match="its settings ask for tensors"):
        MemoryNetwork.read(side.said(), {**side.tensors(), "keys": torch.zeros(3, 3)})


def test_two_kinds_beside_one_layer_keep_their_order(tmp_path: Path) -> None:
    """They act one after the other: the second was trained on the output of the first, also after loading."""
    model = tiny("llama")
    first = memory(model).edit(EDITS[:1])
    both = defer(model).edit(EDITS[1:2], start=first)
    assert isinstance(both, SidePatch) and [kind for kind, _ in both.sides] == ["memory", "defer"]
    assert [record["method"] for record in both.edits] == ["memory", "defer"]
    again = Patch.load(both.save(tmp_path / "both.safetensors"))
    for patch in (both, again):
        with patch.applied(model):
            assert said(model, EDITS[0]) and said(model, EDITS[1])


def test_a_side_that_is_trained_further_acts_where_it_was_trained() -> None:
    model = tiny("llama")
    both = memory(model).edit(EDITS[1:2], start=defer(model).edit(EDITS[:1]))
    whole = defer(model).edit(EDITS[2:], start=both)
    assert isinstance(whole, SidePatch) and [kind for kind, _ in whole.sides] == ["memory", "defer"]
    with whole.applied(model):
        assert said(model, EDITS[2])


def test_a_side_that_is_trained_after_a_codebook_is_applied_after_it() -> None:
    """Also if an earlier edit of the side was made before the codebook."""
    model, grace = tiny("llama"), find_method("grace")
    keys = grace(model, grace.config_class.preset("default", {**QUICK["grace"], "layer": 2, "steps": 60}))
    changed = EDITS[0].model_copy(update={"id": "changed", "target_new": EDITS[1].target_new})
    side = memory(model, layer=2)
    whole = side.edit([changed], start=keys.edit([EDITS[0]], start=side.edit([EDITS[1]])))
    assert isinstance(whole, PatchStack) and [type(part) for part in whole.patches] == [CodebookPatch, SidePatch]
    with whole.applied(model) as edited:
        assert said(edited, changed)


def test_an_edit_in_another_place_leaves_what_the_codebook_says() -> None:
    """The first side stays before the codebook, whose values were trained behind it."""
    model, grace, patcher = tiny("llama"), find_method("grace"), find_method("t-patcher")
    first = memory(model).edit(EDITS[:1])
    second = grace(model, grace.config_class.preset("default", {"layer": 2})).edit(EDITS[1:2], start=first)
    later = patcher(model, patcher.config_class.preset("default", {**QUICK["t-patcher"], "layer": 3}))
    whole = later.edit(EDITS[2:3], start=second)
    assert isinstance(whole, PatchStack)
    assert [type(part) for part in whole.patches] == [SidePatch, CodebookPatch, SidePatch]
    pair = Pair(EDITS[1].text, EDITS[1].target_new)
    found = []
    for patch in (second, whole):
        with patch.applied(model) as edited:
            found.append(score(edited, [pair])[pair].nll)
    assert found[1] == pytest.approx(found[0], abs=0.02)
    assert len(whole.edits) == 3


def test_a_patch_of_another_model_is_refused_before_any_training() -> None:
    start = memory(tiny("gpt2")).edit(EDITS[:1])
    grace = find_method("grace")
    for method in (memory(tiny("llama")), grace(tiny("llama"), grace.config_class.preset("default", {}))):
        with pytest.raises(PatchMismatchError, match="load the right model"):
            method.edit(EDITS[1:2], start=start)


def test_the_loss_of_a_gate_that_stays_shut_is_that_of_the_patch() -> None:
    model = tiny("llama")
    record = defer(model, threshold=0.999999).edit(EDITS[:1]).edits[0]
    pair = Pair(EDITS[0].text, EDITS[0].target_new)
    assert record["loss_after"] == pytest.approx(score(model, [pair])[pair].nll, rel=1e-4), "as without the edit"


def test_later_edits_with_other_settings_are_refused_before_the_training() -> None:
    model = tiny("llama")
    first = memory(model, steps=1).edit(EDITS[:1])
    with pytest.raises(PatchError, match="make later edits with the same settings"):
        memory(model, steps=1, slots=7).edit(EDITS[1:2], start=first)


def test_presets_of_the_published_program() -> None:
    paper = DeferConfig.preset("paper")
    assert (paper.steps, paper.learning_rate, paper.start, paper.texts) == (101, 0.1, "random", 0)
    assert MemoryConfig.preset("paper").steps == 101
