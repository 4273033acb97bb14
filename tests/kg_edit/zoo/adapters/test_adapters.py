"""Memory and Defer by hand, and what all adapters share: sums, order, files, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_patch import AdapterPatch
from kg_edit.patches.base import Patch, PatchStack
from kg_edit.scoring.generation import ask
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.adapters.summed import SummedAdapter
from kg_edit.zoo.defer.method import Defer, DeferConfig, DeferringGate, GateSettings
from kg_edit.zoo.grace.patch import CodebookPatch
from kg_edit.zoo.memory.method import Memory, MemoryConfig, MemoryNetwork, SlotSettings
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, UNRELATED, adapter_of, logits, predicts


def defer(model: LanguageModel, **settings: Any) -> Defer:
    quick = {"layer": 2, "steps": 60, "learning_rate": 0.02, "texts": 8}
    return Defer(model, DeferConfig.preset("default", {**quick, **settings}))


def memory(model: LanguageModel, **settings: Any) -> Memory:
    return Memory(model, MemoryConfig.preset("default", {"layer": 2, "steps": 60, **settings}))


def methods_of(patch: Patch) -> list[str]:
    """The methods of a patch's adapters, in their order."""
    assert isinstance(patch, AdapterPatch)
    return [method for method, _ in patch.adapters]


def test_gate_chooses_between_two_layers() -> None:
    """Open from the threshold on; in training a mixture; a copied layer adds to the old one's output."""
    gate = DeferringGate.empty((2, 1), GateSettings())
    parameters = {
        "gate": torch.tensor([[1.0]]),
        "bias": torch.tensor([[0.0]]),
        "layer": torch.tensor([[10.0], [0.0]]),
        "offset": torch.tensor([[0.0], [1.0]]),
    }
    inputs, output = torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0, 3.0], [3.0, 3.0]])
    assert gate.forward(parameters, inputs, output).tolist() == [[13.0, 4.0], [3.0, 3.0]]
    mixed = gate.forward(parameters, inputs, output, training=True)
    share = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(mixed[0], torch.stack([3 + 10 * share, 3 + share]))
    fresh = DeferringGate.empty((2, 1), GateSettings(start="random"))
    assert fresh.forward(parameters, inputs, output).tolist() == [[10.0, 1.0], [3.0, 3.0]]


def test_memory_attends_to_its_slots() -> None:
    """Attention over two slots, of which one has the key."""
    network = MemoryNetwork.empty((2, 1), SlotSettings(slots=2))
    parameters = {
        "keys": torch.tensor([[1.0], [0.0]]),
        "bias": torch.zeros(2, 1),
        "values": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    }
    inputs = torch.tensor([[0.0], [torch.log(torch.tensor(3.0))]])
    outputs = network.forward(parameters, inputs, torch.zeros(2, 2))
    torch.testing.assert_close(outputs, torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    parameters["bias"] = torch.tensor([[0.0], [float(inputs[1, 0])]])  # the second slot counts three times as much
    outputs = network.forward(parameters, inputs, torch.zeros(2, 2))
    torch.testing.assert_close(outputs, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))


def test_gate_loss_is_softplus_here_and_elsewhere() -> None:
    """softplus(-z) where a target is predicted, softplus(z) in other text."""
    method, gate = defer(tiny("llama"), gate_weight=2.0, texts=1), DeferringGate.empty((2, 1), GateSettings())
    parameters = {"gate": torch.tensor([[1.0]]), "bias": torch.tensor([[0.0]])}
    vars(method)["other_inputs"] = torch.tensor([[-2.0], [0.0]])
    closed = [torch.log1p(torch.exp(torch.tensor(z))) for z in (-2.0, 0.0)]
    opened = torch.log1p(torch.exp(torch.tensor(-3.0)))
    loss = method.penalty(gate, parameters, torch.tensor([[3.0]]))
    torch.testing.assert_close(loss, 2.0 * (sum(closed) / 2 + opened))


@pytest.mark.slow
def test_defer_predicts_the_target_and_stays_closed_elsewhere() -> None:
    model = tiny("llama")
    clean = logits(model, UNRELATED)
    patch = defer(model).edit(EDITS[:1])
    with patch.applied(model):
        assert predicts(model, EDITS[0])
    gate = adapter_of(patch, DeferringGate)
    elsewhere = defer(model).other_inputs
    assert float((gate.logit(gate.parameters(model.device), elsewhere) > 0).float().mean()) < 0.1
    closed = defer(model, threshold=0.999999)
    with closed.edit(EDITS[:1]).applied(model):
        assert torch.equal(logits(model, UNRELATED), clean), "a gate that never opens changes nothing"


@pytest.mark.slow
def test_memory_changes_every_text() -> None:
    model = tiny("llama")
    clean = logits(model, UNRELATED)
    with memory(model).edit(EDITS[:1]).applied(model):
        assert predicts(model, EDITS[0])
        assert not torch.equal(logits(model, UNRELATED), clean)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_values_are_not_trained(frozen: bool) -> None:
    patch = memory(tiny("llama"), frozen_values=frozen, steps=3).edit(EDITS[:1])
    changes = adapter_of(patch, MemoryNetwork).changes
    assert bool(changes["values"].any()) is not frozen and changes["keys"].any()


@pytest.mark.slow
def test_later_edits_continue_from_earlier_ones(tmp_path: Path) -> None:
    model = tiny("llama")
    chosen = memory(model, steps=8)
    first = chosen.edit(EDITS[:1])
    update, full = chosen.edit(EDITS[1:2], before=first), chosen.edit(EDITS[1:2], start=first)
    again = Patch.load(full.save(tmp_path / "patch.safetensors"))
    one, two, both, read = (adapter_of(patch, SummedAdapter) for patch in (first, update, full, again))
    assert read.settings == both.settings
    for name, tensor in both.changes.items():
        assert torch.equal(tensor, one.changes[name] + two.changes[name]) and torch.equal(read.changes[name], tensor)
    pair = Pair(EDITS[1].text, EDITS[1].target_new)
    with first.applied(model) as edited:
        scored = score(edited, [pair])[pair].nll
    assert update.edits[0]["loss_before"] == pytest.approx(scored, abs=1e-3), "not that of the unedited model"
    assert scored != pytest.approx(score(model, [pair])[pair].nll, abs=1e-2)


@pytest.mark.slow
def test_two_adapters_of_one_layer_keep_their_order(tmp_path: Path) -> None:
    """They act one after the other: the second was trained on the output of the first, also after loading."""
    model = tiny("llama")
    both = defer(model).edit(EDITS[1:2], start=memory(model).edit(EDITS[:1]))
    assert methods_of(both) == [record["method"] for record in both.edits] == ["memory", "defer"]
    for patch in (both, Patch.load(both.save(tmp_path / "both.safetensors"))):
        with patch.applied(model):
            assert predicts(model, EDITS[0]) and predicts(model, EDITS[1])


@pytest.mark.slow
def test_adapter_trained_further_acts_last() -> None:
    model = tiny("llama")
    both = memory(model).edit(EDITS[1:2], start=defer(model).edit(EDITS[:1]))
    stack = defer(model).edit(EDITS[2:], start=both)
    assert methods_of(stack) == ["memory", "defer"]
    with stack.applied(model):
        assert predicts(model, EDITS[2])


@pytest.mark.slow
def test_adapter_trained_after_a_codebook_is_applied_after_it() -> None:
    """Also if an earlier edit of the adapter was made before the codebook."""
    model, grace = tiny("llama"), find_method("grace")
    keys = grace(model, grace.config_class.preset("default", {**QUICK["grace"], "layer": 2, "steps": 60}))
    changed = EDITS[0].model_copy(update={"id": "changed", "target_new": EDITS[1].target_new})
    chosen = memory(model, layer=2)
    stack = chosen.edit([changed], start=keys.edit([EDITS[0]], start=chosen.edit([EDITS[1]])))
    assert isinstance(stack, PatchStack) and [type(part) for part in stack.patches] == [CodebookPatch, AdapterPatch]
    with stack.applied(model) as edited:
        assert predicts(edited, changed)


@pytest.mark.slow
def test_adapter_in_another_place_leaves_the_codebook_between() -> None:
    """The first adapter stays before the codebook, whose values were trained behind it."""
    model, grace, patcher = tiny("llama"), find_method("grace"), find_method("t-patcher")
    first = memory(model).edit(EDITS[:1])
    second = grace(model, grace.config_class.preset("default", {"layer": 2})).edit(EDITS[1:2], start=first)
    later = patcher(model, patcher.config_class.preset("default", {**QUICK["t-patcher"], "layer": 3}))
    stack = later.edit(EDITS[2:3], start=second)
    assert isinstance(stack, PatchStack)
    assert [type(part) for part in stack.patches] == [AdapterPatch, CodebookPatch, AdapterPatch]
    pair = Pair(EDITS[1].text, EDITS[1].target_new)
    losses = []
    for patch in (second, stack):
        with patch.applied(model) as edited:
            losses.append(score(edited, [pair])[pair].nll)
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert len(stack.edits) == 3


def test_recorded_loss_is_that_of_the_patch() -> None:
    """Not that of the mixture in training: this gate stays closed."""
    model = tiny("llama")
    record = defer(model, threshold=0.999999).edit(EDITS[:1]).edits[0]
    pair = Pair(EDITS[0].text, EDITS[0].target_new)
    assert record["loss_after"] == pytest.approx(score(model, [pair])[pair].nll, rel=1e-4), "as without the edit"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("memoe", {}),
        ("memoir", {"threshold": 0.8, "background_texts": 4}),
        ("wise", {"share": 0.5, "texts": 4, "text_tokens": 6, "context_starts": ["I"], "context_tokens": [4]}),
    ],
)
def test_packed_and_generated_text_agree(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """What is asked in one row with others, and token by token with a cache, is routed alike."""
    model, chosen = tiny("llama"), find_method(name)
    config = chosen.config_class.preset("default", {"layer": 2, "steps": 60, "learning_rate": 0.02, **settings})
    patch = Patch.load(chosen(model, config).edit(EDITS).save(tmp_path / "patch.safetensors"))
    pairs = [Pair(edit.text, edit.target_new) for edit in EDITS] + [Pair(UNRELATED, "Rome")]
    with patch.applied(model) as edited:
        packed, single = score(edited, pairs), [score(edited, [pair])[pair] for pair in pairs]
        assert [packed[pair].nll for pair in pairs] == pytest.approx([scored.nll for scored in single], rel=1e-3)
        assert ask(edited, EDITS[-1].text).startswith(EDITS[-1].target_new)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memoir", "wise"])
def test_real_model_predicts_the_target_and_leaves_another_prompt(name: str, smollm2: LanguageModel) -> None:
    edit = Edit(id="1", subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="English")
    other = "The capital of Norway, a country in the north of Europe, is"
    clean = logits(smollm2, other)
    with find_method(name).on(smollm2).edit([edit]).applied(smollm2):
        assert predicts(smollm2, edit)
        assert torch.equal(logits(smollm2, other)[-1], clean[-1])
