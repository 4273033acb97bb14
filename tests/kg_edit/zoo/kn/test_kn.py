"""KN: the attributions add up to what they explain, and the columns change as the paper says."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.text.relation_nouns import diverse_prompts
from kg_edit.zoo.kn.method import Kn, KnConfig
from kg_edit.zoo.kn.neurons import (
    integrated_gradients,
    neuron_attributions,
    refined_neurons,
    shared_neurons,
)
from tests.everyday import keep_first
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import tiny

EDIT = Edit(
    id="1", subject="LeBron James", prompt="{} plays for", target_true="Los Angeles Lakers", target_new="Miami Heat"
)
CAPITAL = Edit(id="2", subject="France", prompt="The capital of {} is", target_true="Paris", target_new="Rome")


def test_integrated_gradients_by_hand() -> None:
    """f = x y: half of it each. f = x^2 y: two thirds and one third. f = exp(x): e^x - 1."""
    point = torch.tensor([[2.0, 3.0], [-1.0, 4.0]], dtype=torch.float64)
    product = integrated_gradients(lambda x: x[:, 0] * x[:, 1], point, steps=1)
    torch.testing.assert_close(product, torch.tensor([[3.0, 3.0], [-2.0, -2.0]], dtype=torch.float64))
    cubic = integrated_gradients(lambda x: x[:, 0] ** 2 * x[:, 1], point, steps=400)
    torch.testing.assert_close(
        cubic, torch.tensor([[8.0, 4.0], [8 / 3, 4 / 3]], dtype=torch.float64), rtol=1e-4, atol=0
    )
    wave = integrated_gradients(lambda x: x[:, 0].exp(), point, steps=100)
    torch.testing.assert_close(wave[:, 0], point[:, 0].exp() - 1, rtol=1e-4, atol=0)
    assert not wave[:, 1].any()
    torch.testing.assert_close(integrated_gradients(lambda x: x[:, 0].exp(), point, steps=100, together=20), wave)


@pytest.mark.parametrize("family", ["llama", "falcon-alibi"])
def test_intervals_in_one_pass_equal_single_ones(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    prompts = [model.encode(text, target="Paris") for text in (EDIT.text, "Where does the river flow? The capital is")]
    together = neuron_attributions(model, prompts, [0, 2], steps=6, tokens=1)
    monkeypatch.setattr("kg_edit.zoo.kn.neurons._ROWS", 1)
    alone = neuron_attributions(model, prompts, [0, 2], steps=6, tokens=1)
    assert alone.scores.abs().max() > 1e-5
    torch.testing.assert_close(together.scores, alone.scores, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(together.activity, alone.activity)


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2", "opt-350m", "gpt_neox", "falcon-alibi"]))
def test_attributions_of_a_layer_add_up_to_its_effect(family: str) -> None:
    """Completeness: P(answer) as it is, less P(answer) with the layer's neurons at 0 at that one position."""
    model = tiny(family)
    prompts = [model.encode(text, target="Paris") for text in (EDIT.text, "Where does the river flow? The capital is")]
    attributions = neuron_attributions(model, prompts, [0, 2], steps=64, tokens=1)
    for row, prompt in enumerate(prompts):
        start = prompt.target_start
        for index, layer in enumerate((0, 2)):
            removed = chance(model, prompt.ids[:start], prompt.ids[start], silent=layer)
            expected = chance(model, prompt.ids[:start], prompt.ids[start]) - removed
            assert float(attributions.scores[row, index].sum()) == pytest.approx(expected, rel=2e-2, abs=1e-5)


def chance(model: LanguageModel, ids: tuple[int, ...], token: int, *, silent: int | None = None) -> float:
    """P(token | ids), the last position's neurons in block ``silent`` put to 0."""

    def hush(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        quiet = args[0].clone()
        quiet[..., -1, :] = 0
        return (quiet,)

    quiet = nullcontext() if silent is None else model.down_projection(silent).register_forward_pre_hook(hush)
    with quiet, torch.no_grad():
        return float(model.model(torch.tensor([ids])).logits[0, -1].softmax(-1)[token])


def test_answer_tokens_add_attributions() -> None:
    model = tiny("llama")
    prompt = model.encode(EDIT.text, target=EDIT.target_true)
    assert len(prompt.target_ids) > 2
    one, two, all_ = (neuron_attributions(model, [prompt], [1], steps=2, tokens=count).scores for count in (1, 2, 99))
    second = model.encode(f"{EDIT.text} Los", target="Angeles Lakers")
    assert not torch.allclose(one, two) and not torch.allclose(two, all_) and second.ids == prompt.ids


def test_shared_neurons_are_large_in_a_share_of_the_prompts() -> None:
    attributions = torch.tensor([[[1.0, 0.3, 0.1], [-9.0, 0.0, 0.9]], [[0.1, 5.0, 0.9], [0.0, 0.2, 2.0]]])  # 2 prompts
    both = shared_neurons(attributions, threshold=0.2, share=1.0)
    assert both.mask.tolist() == [[False, True, False], [False, False, True]] and both.share == 1
    either = shared_neurons(attributions, threshold=0.2, share=0.5)
    assert either.mask.tolist() == [[True, True, False], [False, False, True]]
    apart = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    widest = shared_neurons(apart, threshold=0.2, share=1.0)
    assert widest.mask.tolist() == [[True, True]] and widest.share == 0.5
    assert not shared_neurons(torch.zeros(2, 1, 2), threshold=0.2, share=0.5).mask.any()
    assert not shared_neurons(-torch.ones(2, 1, 2), threshold=0.2, share=0.5).mask.any()


def given_by_counts(*counts: int) -> torch.Tensor:
    """Attributions of 20 prompts: neuron n is among the largest of the first ``counts[n]``; later ones are larger."""
    attributions = torch.zeros(20, 1, len(counts) + 1)
    for neuron, count in enumerate(counts):
        attributions[:count, 0, neuron] = 0.5 + 0.01 * neuron
    attributions[:, 0, -1] = 1e-9  # a prompt's largest attribution is above 0
    return attributions


@pytest.mark.parametrize(
    ("counts", "chosen", "share"),
    [
        ((14, 15, 3), [0, 1], 0.7),  # two at .7: nothing is moved
        ((14, 14, 14, 14, 14, 14, 17, 18), [6, 7], 0.75),  # eight at .7: up until few enough
        ((15, 11, 9, 1), [0, 1], 0.55),  # one at .7: down until two
        ((14,) * 7, [2, 3, 4, 5, 6], 0.7),  # seven at .7 and none at .75: the five strongest
    ],
)
def test_refined_neurons_change_the_share_until_the_number_fits(
    counts: tuple[int, ...], chosen: list[int], share: float
) -> None:
    neurons = refined_neurons(given_by_counts(*counts), threshold=0.2, share=0.7, least=2, most=5)
    assert neurons.mask[0].nonzero()[:, 0].tolist() == chosen
    assert neurons.share == pytest.approx(share)


def test_diverse_prompts_are_the_relation_in_other_words() -> None:
    edit = CAPITAL.model_copy(update={"relation_id": "P36", "paraphrases": ("France's seat is in",)})
    templates = diverse_prompts(edit)
    assert len(templates) >= 5 and all(template.count("{}") == 1 for template in templates)
    assert not any("seat" in template for template in templates) and edit.prompt not in templates
    assert diverse_prompts(EDIT) == [], "no relation is named"
    model = tiny("llama")
    rows = [len(on_tiny(Kn, model, prompts=prompts)._prompts(edit)) for prompts in ("contexts", "diverse")]
    assert rows[1] == rows[0] + len(templates)


def test_refined_preset_finds_two_to_five_neurons() -> None:
    refined = KnConfig.preset("refined").model_dump()
    assert (refined["share"], refined["neurons"], refined["prompts"]) == (0.7, (2, 5), "diverse")
    edit = CAPITAL.model_copy(update={"relation_id": "P36"})
    patch = on_tiny(Kn, tiny("llama"), share=0.7, neurons=(2, 5), prompts="diverse").edit([edit])
    assert 2 <= len(patch.edits[0]["neurons"]) <= 5


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt-350m"])
def test_columns_change_as_published(family: str) -> None:
    model = tiny(family)
    patch = on_tiny(Kn, model, erase=1.0, write=8.0, signed=False).edit([EDIT])
    assert isinstance(patch, WeightPatch)
    old, new = (model.encode(EDIT.text, target=target).target_ids[0] for target in ("Los Angeles Lakers", "Miami Heat"))
    head = model.model.get_output_embeddings().weight
    column = (8 * head[new] - head[old]).detach()
    if family == "opt-350m":
        column = column @ model.model.get_submodule("model.decoder.project_out").weight.detach()
    (record,) = patch.edits
    chosen = {(layer, neuron) for layer, neuron in record["neurons"]}
    assert chosen
    for layer in range(4):
        name = model.weight_name(layer)
        neurons = [neuron for at, neuron in chosen if at == layer]
        assert (name in patch.factors) == bool(neurons)
        if neurons:
            change = patch.factors[name].product
            torch.testing.assert_close(change[:, neurons], column[:, None].expand(-1, len(neurons)))
            assert float(change.norm()) == pytest.approx(float(column.norm()) * len(neurons) ** 0.5, rel=1e-5)


def test_negative_neuron_gets_the_negated_column() -> None:
    model = tiny("llama")
    plain, signed = (on_tiny(Kn, model, signed=flag).edit([EDIT]) for flag in (False, True))
    assert isinstance(plain, WeightPatch) and isinstance(signed, WeightPatch)
    assert plain.edits[0]["neurons"] == signed.edits[0]["neurons"]
    signs = torch.cat([pair.right[pair.right != 0] for pair in signed.factors.values()])
    assert set(signs.tolist()) == {1.0, -1.0}
    assert all(torch.equal(signed.factors[name].right.abs(), pair.right) for name, pair in plain.factors.items())
    ids = model.encode(EDIT.text).ids
    new = model.encode(EDIT.text, target="Miami Heat").target_ids[0]
    before = chance(model, ids, new)
    with signed.applied(model):
        assert chance(model, ids, new) > before
