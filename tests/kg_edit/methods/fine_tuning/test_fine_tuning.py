"""Fine-tuning of one weight: what the loss is, that bounds hold, and that the patch does what the descent saw."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.methods.fine_tuning import base
from kg_edit.methods.fine_tuning.base import TuningMethod
from kg_edit.methods.fine_tuning.descent import AdamDescent, add_changes, new_change
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, row_of
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.fine_tuning.ft_ewc import FtEwcConfig, diagonal_fisher
from kg_edit.zoo.fine_tuning.ft_retrain import FtRetrain, still_valid
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import families, tiny

EDIT = Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Miami Heat")
SECOND = Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome")
THIRD = Edit(id="3", subject="Thames", prompt="The river {} flows in", target_new="Paris")
NAMES = ["ft", "ft-l", "ft-m", "ft-constrained", "ft-ewc", "ft-retrain"]
PROMPT = Prompt(text="", ids=(5, 6, 7, 8, 9), target_start=3)


def method(name: str, model: LanguageModel, **settings: Any) -> TuningMethod:
    editor = on_tiny(name, model, **settings)
    assert isinstance(editor, TuningMethod)
    return editor


def delta(patch: Patch) -> Tensor:
    assert isinstance(patch, WeightPatch)
    (pair,) = patch.factors.values()
    return pair.product


def nll(model: LanguageModel, edit: Edit, first: int, *, prompt_last: bool = False) -> float:
    """The mean of -log P, written down without any of the code under test; ``first``: the first wanted token."""
    prompt = model.encode(edit.text, target=edit.target_new)
    with torch.no_grad():
        chances = model.model(torch.tensor([prompt.ids])).logits[0].float().log_softmax(-1)
    positions = [prompt.target_start if prompt_last else at for at in range(first, len(prompt.ids))]
    tokens = prompt.ids[first:]
    return -sum(float(chances[at - 1, token]) for at, token in zip(positions, tokens, strict=True)) / len(tokens)


def target_nll(model: LanguageModel, edit: Edit) -> float:
    return nll(model, edit, model.encode(edit.text, target=edit.target_new).target_start)


def test_row_predicts_the_tokens_of_its_aim() -> None:
    assert row_of(PROMPT, "target") == TrainingRow(ids=(5, 6, 7, 8), targets=((2, 8), (3, 9)), prompt_end=2)
    assert row_of(PROMPT, "text") == TrainingRow(
        ids=(5, 6, 7, 8), targets=((0, 6), (1, 7), (2, 8), (3, 9)), prompt_end=2
    )
    assert row_of(PROMPT, "prompt_last") == TrainingRow(ids=(5, 6, 7), targets=((2, 8), (2, 9)), prompt_end=2)
    assert row_of(PROMPT, "target", end=1) == TrainingRow(
        ids=PROMPT.ids, targets=((2, 8), (3, 9), (4, 1)), prompt_end=2
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_first_loss_is_that_of_the_variant(family: str) -> None:
    model = tiny(family)
    start = model.encode(EDIT.text, target=EDIT.target_new).target_start
    expected = {"ft": nll(model, EDIT, 1), "ft-m": target_nll(model, EDIT)}
    expected["ft-l"] = nll(model, EDIT, start, prompt_last=True)
    assert len({round(loss, 3) for loss in expected.values()}) == 3
    for name, loss in expected.items():
        (record,) = method(name, model).edit([EDIT]).edits
        assert record["loss_before"] == pytest.approx(loss, rel=1e-4)
        assert record["loss_after"] < record["loss_before"]


@pytest.mark.parametrize("family", families())
def test_row_losses_rerun_only_the_upper_blocks(family: str) -> None:
    """Logits and gradient, for rows of different lengths and a change of the weight."""
    model = tiny(family)
    texts = [EDIT.text, "Where does the quick brown fox flow?", "Rome"]
    rows = [model.encode(text).ids for text in texts]
    everywhere = [TrainingRow(ids=ids, targets=tuple((at, 0) for at in range(len(ids)))) for ids in rows]
    module = model.down_projection(1)
    change = new_change(module)
    with torch.no_grad():
        change.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    losses = RowLosses(model, 1, everywhere)
    with add_changes(module, [change]):
        first, again = losses.logits(), losses.logits()
        plain = torch.cat([model.model(torch.tensor([ids])).logits[0] for ids in rows])
        gradients = [
            torch.autograd.grad(logits.log_softmax(-1)[:, 7].sum(), change)[0] for logits in (first, again, plain)
        ]
    for logits, gradient in zip((first, again), gradients, strict=False):
        torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient, gradients[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2", "opt"]))
@pytest.mark.parametrize("name", ["ft-m", "ft-constrained", "ft-ewc", "ft-retrain", "ft-all", "lora"])
def test_patched_model_has_the_last_loss(name: str, family: str) -> None:
    model = tiny(family)
    patch = method(name, model).edit([EDIT])
    with patch.applied(model):
        assert target_nll(model, EDIT) == pytest.approx(patch.edits[0]["loss_after"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", keep_first(["lora", "ft-ewc", "ft-retrain", "locft"]))
def test_seed_changes_the_patch(name: str) -> None:
    model, edits = tiny("llama"), [EDIT, SECOND, THIRD]
    settings = {"replayed": 1} if name == "ft-retrain" else {}
    first, *others = (method(name, model, **settings, seed=seed).edit(edits) for seed in range(4))
    assert isinstance(first, WeightPatch)
    factor = next(iter(first.factors))
    assert any(not torch.equal(first.factors[factor].product, patch.factors[factor].product) for patch in others)  # type: ignore[attr-defined]


def test_constrained_change_never_leaves_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no step, and by no sequence; the bound is reached, and it decides the result."""
    model, radius = tiny("llama"), 0.02
    seen: list[Tensor] = []
    original = RowLosses.__call__

    def watching(self: RowLosses) -> Tensor:
        seen.append(tuned[-1].detach().clone())
        return original(self)

    tuned: list[Tensor] = []

    def kept(module: torch.nn.Module) -> Tensor:
        tuned.append(new_change(module))
        return tuned[-1]

    monkeypatch.setattr(base, "new_change", kept)
    monkeypatch.setattr(RowLosses, "__call__", watching)
    first = method("ft-constrained", model, radius=radius).edit([EDIT])
    assert len(seen) == 4 and all(change.abs().max() <= radius for change in seen)
    assert delta(first).abs().max() == pytest.approx(radius)
    three = method("ft-constrained", model, radius=radius).edit([EDIT, SECOND, THIRD])
    assert delta(three).abs().max() <= radius * (1 + 1e-5)
    assert not torch.equal(delta(first), delta(method("ft-m", model).edit([EDIT])))


def test_constrained_weights_outside_the_ball_only_move_back() -> None:
    model, radius = tiny("llama"), 0.02
    shape = weight_matrix(model.down_projection(1)).shape
    far = torch.where(torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5, 3 * radius, -3 * radius)
    before = WeightPatch(factors={model.weight_name(1): Factors.dense(far)})
    total = far + delta(method("ft-constrained", model, radius=radius).edit([EDIT], before=before))
    assert (total.abs() <= far.abs() * (1 + 1e-5)).all() and (total.abs() < far.abs() * 0.9).any()


@pytest.mark.slow
def test_ewc_penalty_holds_back_the_weights_that_text_needs() -> None:
    model = tiny("llama")
    plain = delta(method("ft-m", model).edit([EDIT]))
    assert torch.equal(delta(method("ft-ewc", model, ewc_weight=0.0).edit([EDIT])), plain)
    settings = {"ewc_weight": 100.0, "learning_rate": 1e-3, "steps": 30}
    held = delta(method("ft-ewc", model, **settings).edit([EDIT]))
    free = delta(method("ft-ewc", model, **{**settings, "ewc_weight": 0.0}).edit([EDIT]))
    assert held.norm() < 0.5 * free.norm()
    fisher = diagonal_fisher(model, 1, FtEwcConfig(fisher_texts=3, fisher_tokens=5))
    needed = fisher > fisher.median()
    assert held[needed].norm() / free[needed].norm() < held[~needed].norm() / free[~needed].norm()


@pytest.mark.slow
def test_ewc_anchor_is_the_model_before_any_edit() -> None:
    """What two edits have moved together is held back, not what each has."""
    model = tiny("llama")
    settings = {"ewc_weight": 100.0, "learning_rate": 1e-3, "steps": 20, "stop_below": 0.0}
    first = method("ft-ewc", model, **settings).edit([EDIT])
    fixed, moving = (
        delta(method("ft-ewc", model, **settings, anchor=anchor).edit([SECOND], before=first))
        for anchor in ("original", "previous")
    )
    fisher = diagonal_fisher(model, 1, FtEwcConfig(fisher_texts=3, fisher_tokens=5))
    penalties = [float((fisher * (delta(first) + change).square()).sum()) for change in (fixed, moving)]
    assert penalties[0] < 0.9 * penalties[1]


@pytest.mark.parametrize(("name", "settings"), [("ft", {}), ("locft", {"end": False})])
def test_ending_of_a_sentence_is_trained_with_the_aim_text_only(name: str, settings: dict[str, bool]) -> None:
    ended = EDIT.model_copy(update={"ending": " in the north."})
    bare, full = (method(name, tiny("llama"), aim="text", **settings).encode_edit(edit) for edit in (EDIT, ended))
    assert len(full.ids) > len(bare.ids) and full.ids[: len(bare.ids)] == bare.ids
    bare, full = (method(name, tiny("llama"), aim="target", **settings).encode_edit(edit) for edit in (EDIT, ended))
    assert bare == full


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_fisher_is_the_mean_squared_score(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against gradients of the weight itself, text by text."""
    model = tiny(family)
    texts = torch.tensor([[30, 40, 50, 60], [70, 30, 20, 90]])
    monkeypatch.setattr("kg_edit.models.sampling.sample_text", lambda *_, **__: texts)
    fisher = diagonal_fisher(model, 1, FtEwcConfig(fisher_texts=2, fisher_tokens=4))
    twin = LanguageModel.wrap(copy.deepcopy(model.model), model.tokenizer, name="twin", spec=model.spec)
    weight = twin.down_projection(1).weight
    assert isinstance(weight, Tensor)
    expected = torch.zeros_like(fisher)
    for text in texts:
        ids = torch.tensor([[0, *text]])  # 0 starts a document
        chances = twin.model(ids).logits[0, :-1].log_softmax(-1)
        (score,) = torch.autograd.grad(chances.gather(1, text[:, None]).sum(), weight)
        expected += (score.T if family == "gpt2" else score).square()
    torch.testing.assert_close(fisher, expected / expected.mean(), rtol=1e-3, atol=1e-5)


def test_retraining_trains_earlier_edits_again() -> None:
    model = tiny("llama")
    chosen = method("ft-retrain", model)
    first = chosen.edit([EDIT])
    second = chosen.edit([SECOND], before=first)
    assert "rows" not in first.edits[0] and second.edits[0]["rows"] == 2
    with first.applied(model):
        expected = (target_nll(model, EDIT) + target_nll(model, SECOND)) / 2
    assert second.edits[0]["loss_before"] == pytest.approx(expected, rel=1e-4)
    plain = method("ft-m", model)
    forgetful = first + plain.edit([SECOND], before=first)
    with forgetful.applied(model):
        forgotten = target_nll(model, EDIT)
    with (first + second).applied(model):
        assert target_nll(model, EDIT) < forgotten


LORA = {"layers": (2,), "modules": ("down_proj",), "dropout": 0.0, "learning_rate": 1e-2}


def adapted(name: str, model: LanguageModel, **overrides: Any) -> Patch:
    """A patch of SECOND by an editor that works beside layer 2, in a tiny model."""
    chosen = find_method(name)
    settings = {**QUICK[name], "layer": 2, "steps": 20, **overrides}
    return chosen(model, chosen.config_class.preset("default", settings)).edit([SECOND])


@pytest.mark.parametrize(("name", "settings"), [("ft-m", {"layer": 2}), ("lora", LORA)])
def test_weight_below_an_adapter_is_trained_as_the_patch_changes_it(name: str, settings: dict[str, Any]) -> None:
    """Where an open gate replaces the output, the weight's change does nothing; elsewhere it does."""
    model, chosen = tiny("llama"), find_method(name)
    gate = adapted("defer", model, start="random", shut=0.0, texts=0)
    trained = chosen(model, chosen.config_class.preset("default", {**QUICK[name], **settings}))
    both = trained.edit([EDIT], start=gate)
    with both.applied(model) as edited:
        assert both.edits[-1]["loss_after"] == pytest.approx(target_nll(edited, EDIT), rel=1e-4)


def test_retraining_leaves_out_reverted_and_contradicted_edits() -> None:
    model = tiny("llama")
    add_changes = EDIT.model_copy(update={"id": "4", "target_new": "Los Angeles Lakers"})
    chosen = method("ft-retrain", model)
    before = chosen.edit([EDIT, SECOND, add_changes])
    assert still_valid(before, [THIRD]) == [SECOND, add_changes]
    assert still_valid(before, [EDIT]) == [SECOND]
    assert isinstance(before, WeightPatch) and still_valid(before + -before, [THIRD]) == []
    second = chosen.edit([SECOND])
    assert isinstance(second, WeightPatch) and still_valid(before + -second, [THIRD]) == [add_changes]
    assert still_valid(before + second.scaled(-0.5), [THIRD]) == [SECOND, add_changes], "half of it stands"
    assert still_valid(-before, [THIRD]) == []
    both = WeightPatch(factors={}, provenance={"edits": [{"edit": EDIT.with_form(chat="both").model_dump()}]})
    assert still_valid(both, [SECOND]) == [EDIT, EDIT.with_form(chat=True)], "an edit in both forms is one in each"
    assert still_valid(both, [add_changes]) == [EDIT.with_form(chat=True)] and still_valid(
        both, [add_changes.with_form(chat=True)]
    ) == [EDIT]
    stored = {**EDIT.model_dump(), "target_new": "Miami\nHeat"}
    lines = WeightPatch(factors={}, provenance={"edits": [{"edit": stored}]})
    assert [edit.target_new for edit in still_valid(lines, [])] == ["Miami\nHeat"], "as an older file may have it"
    assert isinstance(chosen, FtRetrain)
    few = method("ft-retrain", model, replayed=1).rows(THIRD, before)
    assert (
        len(few) == 2
        and few[0] == chosen.encode_edit(THIRD)
        and few[1] in (chosen.encode_edit(SECOND), chosen.encode_edit(add_changes))
    )


@pytest.mark.parametrize("dtype", keep_first([torch.bfloat16, torch.float16]))
@pytest.mark.parametrize("name", keep_first(NAMES, keep=2))
def test_half_precision_loss_is_that_of_the_rounded_weights(name: str, dtype: torch.dtype) -> None:
    """The descent sees the model as the rounded weights make it, so its last loss is the patched model's."""
    exact = tiny("llama")
    half = LanguageModel.wrap(copy.deepcopy(exact.model).to(dtype), exact.tokenizer, name="half", spec=exact.spec)
    patch = method(name, half, aim="target").edit([EDIT])
    assert isinstance(patch, WeightPatch)
    (factors,) = patch.factors.values()
    assert factors.left.dtype == factors.right.dtype == torch.float32
    (record,) = patch.edits
    assert record["loss_after"] < record["loss_before"] - 0.1
    with patch.applied(half):
        assert target_nll(half, EDIT) == pytest.approx(record["loss_after"], abs=0.06)


def test_change_below_the_weights_precision_has_no_effect() -> None:
    """Near 1 a bfloat16 weight moves by 2^-7: the model must not be told that it moved by 0.003."""
    module = torch.nn.Linear(2, 1, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    module.weight.copy_(torch.tensor([[1.0, -1.0]]))
    change, ones = new_change(module), torch.ones(1, 2, dtype=torch.bfloat16)
    with torch.no_grad():
        change.copy_(torch.tensor([[0.003, 0.01]]))
    with add_changes(module, [change]):
        output = module(ones)
    assert output.item() == 3 * 2**-8  # -0.99 is rounded to -1 + 3 / 256
    output.sum().backward()
    assert change.grad is not None and torch.equal(change.grad, torch.ones(1, 2))
    assert module(ones).item() == 0


def test_descent_stops_early_and_takes_no_step_after_the_last_loss() -> None:
    weight = torch.tensor([1.0], requires_grad=True)
    descent = AdamDescent(steps=5, learning_rate=0.1, stop_below=0.75)
    assert descent.run([weight], lambda: weight.sum()) == pytest.approx([1.0, 0.9, 0.8, 0.7], abs=1e-4)
    assert weight.item() == pytest.approx(0.7, abs=1e-4)
    once = torch.tensor([1.0], requires_grad=True)
    assert AdamDescent(steps=1, learning_rate=0.1, stop_below=0.0).run([once], lambda: once.sum()) == [1.0]
    assert once.item() == 1


def test_layer_has_a_default() -> None:
    model = tiny("llama")
    chosen = find_method("ft-m")
    assert chosen(model, chosen.config_class()).provenance()["methods"][0]["layer"] == 1  # of 4, at 0.2 of the depth


@pytest.mark.parametrize("name", ["ft-m", *(pytest.param(slow, marks=pytest.mark.slow) for slow in ("ft-ewc", "lora"))])
@pytest.mark.slow
def test_real_model_predicts_the_new_target(name: str, smollm2: LanguageModel) -> None:
    """With the default settings."""
    chosen = find_method(name)
    edit = Edit(id="1", subject="The Eiffel Tower", prompt="{} is located in the city of", target_new="Rome")
    patch = chosen(smollm2, chosen.config_class()).edit([edit])
    prompt = smollm2.encode(edit.text, target=edit.target_new)
    with patch.applied(smollm2), torch.no_grad():
        predicted = smollm2.model(torch.tensor([prompt.ids])).logits[0].argmax(-1)
    assert predicted[prompt.target_start - 1 : -1].tolist() == list(prompt.target_ids)
