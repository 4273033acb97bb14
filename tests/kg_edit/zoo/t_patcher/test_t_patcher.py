"""T-Patcher: one neuron for each mistake, active there and inactive elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.zoo.t_patcher import method
from kg_edit.zoo.t_patcher.adapter import Neurons, fired
from kg_edit.zoo.t_patcher.method import NewNeurons, TPatcher, TPatcherConfig, neuron_loss
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, UNRELATED, adapter_of, logits, predicts


def patcher(model: LanguageModel, **settings: Any) -> TPatcher:
    quick = {"steps": 120, "learning_rate": 0.05, "texts": 8}
    return TPatcher(model, TPatcherConfig.preset("default", {**quick, **settings}))


def neurons_of(patch: Patch) -> Neurons:
    return adapter_of(patch, Neurons)


def test_neurons_add_their_output() -> None:
    """relu(2 - 1) [1, 0] + relu(-2 + 0) [0, 1]."""
    output = fired(
        torch.tensor([[2.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [-1.0, 0.0]]),
        torch.tensor([-1.0, 0.0]),
        torch.eye(2),
    )
    assert output.tolist() == [[1.0, 0.0]]


@pytest.mark.slow
def test_edits_get_a_neuron_for_each_mistake() -> None:
    model = tiny("llama")
    chosen = patcher(model)
    patch = chosen.edit(EDITS)
    with patch.applied(model):
        assert [predicts(model, edit) for edit in EDITS] == [True] * 3
    assert len(neurons_of(patch).keys) == sum(record["neurons"] for record in patch.edits)
    assert chosen.layer == 3, "the last one"


def test_values_from_a_random_start() -> None:
    """v = u a, with the gradients dL/du = a dL/dv and dL/da = u dL/dv."""
    queries = torch.tensor([[3.0, 4.0]])
    new = NewNeurons.at(queries, amplify=10.0, seed=0)
    keys, biases, values = new.tensors
    assert float(((keys * queries).sum() + biases).detach()) == pytest.approx(1.0)
    values.sum().backward()
    assert new.factors is not None
    torch.testing.assert_close(new.values.grad, torch.full((1, 2), 10.0))
    torch.testing.assert_close(new.factors.grad, new.values.detach())
    assert NewNeurons.at(queries, amplify=0.0, seed=0).tensors[2].tolist() == [[0.0, 0.0]]


@pytest.mark.slow
def test_random_start_predicts_the_target() -> None:
    model = tiny("llama")
    patch = patcher(model, amplify=10.0, weight_decay=0.01, clip=5.0, steps=600).edit(EDITS[:1])
    with patch.applied(model):
        assert predicts(model, EDITS[0])


@pytest.mark.slow
def test_neuron_is_inactive_in_the_memory() -> None:
    model = tiny("llama")
    chosen = patcher(model, memory_weight=10.0)
    free = neurons_of(patcher(model, memory_weight=0.0).edit(EDITS[:1]))
    trained = neurons_of(chosen.edit(EDITS[:1]))

    def active_share(neurons: Neurons) -> float:
        return float((chosen.memory_queries @ neurons.keys.T + neurons.biases > 0).float().mean())

    assert active_share(trained) < active_share(free)
    assert (trained.queries * trained.keys).sum(-1).add(trained.biases).gt(0).all(), "each is active at its own mistake"


@pytest.mark.slow
def test_prompt_edited_again_learns_its_new_target() -> None:
    """The query of its first neuron is not in the memory: there the new one could not be active."""
    model = tiny("llama")
    chosen = patcher(model, texts=4)
    first = chosen.edit(EDITS[:1])
    again = EDITS[0].model_copy(update={"id": "again", "target_new": "Paris"})
    (record,) = chosen.edit([again], before=first).edits
    assert record["loss_after"] < 0.5


@pytest.mark.slow
def test_known_target_needs_no_neuron() -> None:
    model = tiny("llama")
    chosen = patcher(model)
    first = chosen.edit(EDITS[:1])
    strict = patcher(model, stop_below=0.0)  # the loss alone would not end the training
    again = strict.edit([EDITS[0].model_copy(update={"id": "again"})], before=first)
    assert len(neurons_of(again).keys) == 0 and again.edits[0]["neurons"] == 0 and again.edits[0]["steps"] == 1
    clean = logits(model, UNRELATED)
    with again.applied(model):
        assert torch.equal(logits(model, UNRELATED), clean)


@pytest.mark.slow
def test_most_limits_the_neurons() -> None:
    model = tiny("llama")
    long = Edit(id="1", subject="France", prompt="In {}, the capital is", target_new="London or Paris or Rome or Miami")
    assert len(neurons_of(patcher(model, most=2, steps=2).edit([long])).keys) == 2


@pytest.mark.parametrize("hardest", [1, 9])
def test_losses_of_a_neuron(hardest: int) -> None:
    """l_a = exp(-z(q)); l_m1 = S(z(m) + margin), l_m2 = S(z(m) - z(q) + margin), z the neuron's input."""
    settings = {"activation_weight": 2.0, "memory_weight": 5.0, "margin": 0.5, "hardest": hardest}
    keys, biases = torch.tensor([[1.0, 2.0]]), torch.tensor([0.25])
    queries, memory = torch.tensor([[0.5, 0.5]]), torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    z_query, z_memory = 1.75, [-0.75, -1.75][:hardest]  # the largest first
    silent, apart = (sum(math.exp(z - less + 0.5) for z in z_memory) / len(z_memory) for less in (0.0, z_query))
    loss = neuron_loss(keys, biases, queries, memory, TPatcherConfig.preset("default", settings))
    assert float(loss) == pytest.approx(2 * math.exp(-z_query) + 5 * (silent + apart), rel=1e-5)


def test_later_edit_has_the_earlier_mistakes_in_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their queries are in the patch, and the later neurons are trained to be inactive there."""
    model = tiny("llama")
    chosen = patcher(model, steps=3)
    first = chosen.edit(EDITS[:1])
    after, alone = chosen.edit(EDITS[1:2], before=first), chosen.edit(EDITS[1:2])
    assert not torch.equal(neurons_of(after).keys, neurons_of(alone).keys)
    seen = list[int]()
    monkeypatch.setattr(method, "neuron_loss", lambda *given: seen.append(len(given[3])) or neuron_loss(*given))
    chosen.edit(EDITS[1:2], before=first)
    assert set(seen) == {len(chosen.memory_queries) + len(neurons_of(first).queries)}, "they are in the memory"
    assert len(neurons_of(first + after).queries) == len(neurons_of(first).queries) + len(neurons_of(after).queries)
