"""WISE: its loss against a plain transcription, its edits in a tiny model, and what they add to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.methods import find_method
from kg_edit.methods.fine_tuning.rows import RowLosses
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_rows
from kg_edit.patches.base import Patch
from kg_edit.zoo.wise.activations import Activations, margin_loss
from kg_edit.zoo.wise.adapter import SideMemory
from kg_edit.zoo.wise.method import Wise
from kg_edit.zoo.wise.ties import merge_by_ties
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS, UNRELATED, adapter_of, logits, predicts

LAYER = 2
QUICK = {"layer": LAYER, "steps": 60, "learning_rate": 0.02, "texts": 4, "text_tokens": 6, "context_starts": ["I"]}


def wise(model: LanguageModel, **settings: Any) -> Wise:
    return on_tiny(Wise, model, **{**QUICK, "ratio": 0.88, **settings})


def memory_of(patch: Patch) -> SideMemory:
    return adapter_of(patch, SideMemory)


def test_margins_are_those_of_equation_5() -> None:
    """[a_i - 1]+ is 2, [2 - a_e]+ is 1, [1 - (a_e - a_i)]+ is 0.5 and 3 for the edit's first text, 0 for its second."""
    over = Activations(edited=torch.tensor([1.0, 4.0]), unrelated=torch.tensor([0.5, 3.0]))
    assert float(margin_loss(over, alpha=1.0, beta=2.0, gamma=1.0)) == pytest.approx(2.0 + 1.0 + 1.75)
    within = Activations(edited=torch.tensor([9.0]), unrelated=torch.tensor([0.5]))
    assert float(margin_loss(within, alpha=1.0, beta=2.0, gamma=1.0)) == 0.0


def test_training_is_gradient_descent_on_the_published_loss() -> None:
    """Three steps on the whole model with W + D in the place of W, and the margins token by token."""
    model, alpha, beta, gamma, bound = tiny("llama"), 0.02, 0.2, 0.1, 0.003
    settings = {"optimiser": "sgd", "learning_rate": 0.5, "relative": False, "steps": 4, "stop_below": 0.0}
    chosen = wise(model, alpha=alpha, beta=beta, gamma=gamma, bound=bound, **settings)
    memory = memory_of(chosen.edit(EDITS[:1]))
    rows, config = chosen.rows(EDITS[0]), chosen.config
    assert len(rows) == 2, "the bare prompt, and one context"
    texts = sample_rows(model, rows=config.texts, tokens=config.text_tokens, seed=config.seed)
    name, original = model.weight_name(LAYER), model.down_projection(LAYER).weight.detach().clone()
    edit_inputs, text_inputs = ([key_inputs(model, ids) for ids in part] for part in ([row.ids for row in rows], texts))
    mask, change = memory.subspace(0).float(), torch.zeros_like(original)

    def activations(inputs: Tensor, now: Tensor) -> list[Tensor]:
        moved = [(now @ x).norm() for x in inputs]
        return [torch.stack(moved[: end + 1]).mean() for end in range(len(moved))]

    for _ in range(3):
        now = change.clone().requires_grad_()
        nll = []
        for row in rows:
            at, targets = zip(*row.targets, strict=True)
            edited = {name: original + now * mask}
            out = torch.func.functional_call(model.model, edited, (torch.tensor([row.ids]),)).logits[0, list(at)]
            nll.append(torch.nn.functional.cross_entropy(out, torch.tensor(targets)))
        a_edit = [
            torch.stack([activations(x, now * mask)[position] for position, _ in row.targets]).min()
            for x, row in zip(edit_inputs, rows, strict=True)
        ]
        a_text = [a for x in text_inputs for a in activations(x, now * mask)]
        faults = (
            [a - alpha for a in a_text],
            [beta - a for a in a_edit],
            [gamma - (a - b) for a in a_edit for b in a_text],
        )
        over = [torch.stack([f for f in kind if f > 0]).mean() for kind in faults if any(f > 0 for f in kind)]
        (gradient,) = torch.autograd.grad(torch.stack(nll).mean() + sum(over), now)
        change = (change - 0.5 * gradient).clamp(-bound, bound)
    assert bool((change.abs() == bound).any())
    torch.testing.assert_close(memory.shards[0], change * mask, rtol=1e-3, atol=1e-6)


def key_inputs(model: LanguageModel, ids: tuple[int, ...]) -> Tensor:
    """What the down-projection reads at the tokens of a text, [tokens, d_ff]."""
    seen: list[Tensor] = []
    with torch.no_grad(), watch(model.down_projection(LAYER), lambda x, _: seen.append(x[0])):
        model.model(torch.tensor([ids]))
    return seen[0]


def test_edit_is_routed_and_unrelated_text_is_answered_bit_for_bit() -> None:
    model = tiny("llama")
    clean = logits(model, UNRELATED)
    patch = wise(model, share=1.0, texts=32, text_tokens=12, context_starts=[]).edit(EDITS[:1])
    with patch.applied(model):
        assert predicts(model, EDITS[0])
        assert torch.equal(logits(model, UNRELATED), clean)
    assert "of 1 shard with 1 edit" in patch.summary


def test_activation_is_measured_with_the_codebook_entry_of_the_prompt() -> None:
    model, edit = tiny("llama"), EDITS[0].model_copy(update={"target_new": "Miami Heat and London"})
    book = find_method("grace").on(model, settings={"layer": 0, "steps": 4}).edit(EDITS[:1])
    chosen, inputs = wise(model, steps=3, context_starts=[]), list[Tensor]()
    memory, row = memory_of(chosen.edit([edit], before=book)), chosen.encode_edit(edit)
    with torch.no_grad(), book.applied(model), watch(model.down_projection(LAYER), lambda x, _: inputs.append(x[0])):
        RowLosses(model, 0, [row])()
    moved = (inputs[0] @ memory.shards[0].T).norm(dim=-1)
    means = moved.cumsum(0) / torch.arange(1, len(moved) + 1)
    assert float(memory.activations) == pytest.approx(min(float(means[at]) for at, _ in row.targets), rel=1e-4)


def test_batches_fill_shards_one_after_the_other_also_from_a_file(tmp_path: Path) -> None:
    """Two edits fill two shards, which are merged; a later batch begins a third, with the memory of a file too."""
    chosen = wise(tiny("llama"), steps=3, shard=1)
    first = chosen.edit(EDITS[:2])
    again = Patch.load(first.save(tmp_path / "first.safetensors"))
    uncut, resumed = (memory_of(chosen.edit(EDITS[2:], start=start)) for start in (first, again))
    assert sorted(uncut.shards) == [0, 1, 2] and uncut.owners.tolist() == [0, 1, 2]
    merged, alone = uncut.memories()
    assert torch.equal(merged.change, merge_by_ties([uncut.shards[0], uncut.shards[1]], [0.5, 0.5], density=0.53))
    assert torch.equal(alone.change, uncut.shards[2])
    assert merged.threshold == pytest.approx(0.88 * float(uncut.activations[:2].min()))
    for number, change in uncut.shards.items():
        assert torch.equal(change, resumed.shards[number])
        assert change.any() and not change[~uncut.subspace(number)].any()


@pytest.mark.slow
def test_later_edit_of_a_shard_is_trained_on_the_earlier() -> None:
    chosen = wise(tiny("llama"), steps=4)
    first = chosen.edit(EDITS[:1])
    after, alone = chosen.edit(EDITS[1:2], before=first), chosen.edit(EDITS[1:2])
    assert not torch.equal(memory_of(after).shards[0], memory_of(alone).shards[0])
    both = memory_of(first + after)
    assert torch.equal(both.shards[0], memory_of(first).shards[0] + memory_of(after).shards[0])
    assert both.owners.tolist() == [0, 0]
