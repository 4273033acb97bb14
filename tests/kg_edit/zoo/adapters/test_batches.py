"""CaliNET and MEMoE: a batch trained together, later batches on top, and how tokens are routed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kg_edit.errors import EditError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_patch import AdapterPatch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.calinet.method import Calinet, CalinetConfig, ExtraUnits, UnitSettings
from kg_edit.zoo.memoe.adapter import Anchors, Experts, ExpertSettings, find_name_tokens
from kg_edit.zoo.memoe.method import Memoe, MemoeConfig
from tests.everyday import keep_first
from tests.kg_edit.tiny import byte_level, tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, adapter_of, predicts


def calinet(model: LanguageModel, **settings: Any) -> Calinet:
    quick = {"layer": 2, "steps": 80, "learning_rate": 0.02, "units": 16}
    return Calinet(model, CalinetConfig.preset("default", {**quick, **settings}))


def memoe(model: LanguageModel, **settings: Any) -> Memoe:
    quick = {"layer": 2, "steps": 80, "learning_rate": 0.02}
    return Memoe(model, MemoeConfig.preset("default", {**quick, **settings}))


def test_units_add_their_output() -> None:
    network = ExtraUnits.empty((2, 3), UnitSettings(units=1))
    parameters = {"keys": torch.tensor([[1.0, 0.0]]), "values": torch.tensor([[0.0, 2.0]])}
    outputs = network.forward(parameters, torch.tensor([[3.0, 9.0], [-30.0, 9.0]]), torch.ones(2, 2))
    torch.testing.assert_close(outputs, torch.tensor([[1.0, 1.0 + 2 * 3 * 0.998650], [1.0, 1.0]]), rtol=1e-4, atol=1e-4)


def test_router_sends_each_token_to_its_expert() -> None:
    """Two experts of a module [2, 1]; one input goes to the first and the other to the second."""
    experts = Experts.empty((2, 1), ExpertSettings(experts=2, scale=0.5))
    parameters = {
        "router": torch.tensor([[100.0, 0.0, 0.0], [-100.0, 0.0, 0.0]]),
        "experts": torch.tensor([[1.0], [0.0], [0.0], [10.0]]),
    }
    features = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    assert experts.compute_gates(parameters, features).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert experts.forward(parameters, features, torch.zeros(2, 2)).tolist() == [[1.0, 0.0], [0.0, -10.0]]


@pytest.mark.parametrize("make", keep_first([calinet, memoe]))
def test_batch_predicts_all_targets(make: Any) -> None:
    model = tiny("llama")
    patch = make(model).edit(EDITS)
    with patch.applied(model):
        assert [predicts(model, edit) for edit in EDITS] == [True] * 3
    assert [record["batch"] for record in patch.edits] == [3, 3, 3]


@pytest.mark.parametrize("make", [calinet, memoe])
def test_record_has_the_loss_of_its_edit_not_of_the_batch(make: Any) -> None:
    model = tiny("llama")
    pairs = [Pair(edit.text, edit.target_new) for edit in EDITS]
    before, patch = score(model, pairs), make(model, steps=3).edit(EDITS)
    with patch.applied(model) as edited:
        after = score(edited, pairs)
    for pair, record in zip(pairs, patch.edits, strict=True):
        assert record["loss_before"] == pytest.approx(before[pair].nll, rel=1e-3)
        assert record["loss_after"] == pytest.approx(after[pair].nll, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [calinet, memoe])
def test_later_batch_is_trained_on_the_earlier(make: Any) -> None:
    model = tiny("llama")
    chosen = make(model, steps=40)
    first = chosen.edit(EDITS[:1])
    both = chosen.edit(EDITS[1:], start=first)
    with both.applied(model):
        assert predicts(model, EDITS[1]) and predicts(model, EDITS[2])
    assert [record["batch"] for record in both.edits] == [1, 2, 2]
    with pytest.raises(EditError, match="one batch can't make both"):
        chosen.edit([EDITS[0], EDITS[0].model_copy(update={"id": "x", "target_new": "Rome"})])


@pytest.mark.parametrize(("word", "is_name"), [(" Été", True), (" été", False), (" Это", True), (" это", False)])
def test_name_begins_with_a_capital_letter_of_any_alphabet(word: str, is_name: bool) -> None:
    """A byte-level vocabulary writes é and э as bytes, of which the first looks like a capital letter."""
    tokenizer = byte_level()
    written = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(word)[0][0]
    tokenizer.add_tokens(written)
    assert bool(find_name_tokens(tokenizer, len(tokenizer))[tokenizer.convert_tokens_to_ids(written)]) is is_name


def test_anchors_are_the_mean_of_the_names_so_far() -> None:
    model = tiny("llama")
    names = find_name_tokens(model.tokenizer, 400)
    ids = list(model.encode("LeBron James plays for the Los Angeles Lakers").ids)
    marked = [model.tokenizer.decode([token]) for token in ids if names[token]]
    assert marked and all(word.startswith(" ") and word[1].isupper() for word in marked)
    embedding = model.model.get_input_embeddings().weight.detach()
    with Anchors(model, 1, name="test").attached() as anchors, torch.no_grad():
        seen: list[torch.Tensor] = []
        handle = model.down_projection(1).register_forward_hook(
            lambda _, args, __: seen.append(anchors.of(args[0].reshape(-1, args[0].shape[-1])))
        )
        model.model(torch.tensor([ids]))
        handle.remove()
    mine = [embedding[token] for token in ids if names[token]]
    torch.testing.assert_close(seen[0][-1], torch.stack(mine).mean(0), rtol=1e-4, atol=1e-5)
    assert not seen[0][0].any(), "before the first name it is 0"


@pytest.mark.slow
def test_routes_are_the_experts_of_the_router() -> None:
    """If the router's rows move on by one, every text goes to the next expert."""
    model = tiny("llama")
    chosen = memoe(model, steps=3)
    patch, texts = chosen.edit(EDITS), [edit.text for edit in EDITS]
    experts = adapter_of(patch, Experts)
    started = experts.initial()["router"]
    rolled = (started + experts.changes["router"]).roll(1, 0) - started
    moved = replace(experts, changes={**experts.changes, "router": rolled})
    moved_patch = AdapterPatch(adapters={chosen.place: moved}, provenance=patch.provenance)
    assert chosen.routes(moved_patch, texts) == [(expert + 1) % 4 for expert in chosen.routes(patch, texts)]
