"""LocFT-BF: breadth first, in seeded batches, with the end of text after the target."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.methods.fine_tuning.epochs import draw_batches
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.fine_tuning.locft import LocFt
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import byte_level, tiny

EDITS = (
    Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Miami Heat"),
    Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome"),
    Edit(id="3", subject="Thames", prompt="The river {} flows in", target_new="Paris"),
    Edit(id="4", subject="Spike Hughes", prompt="{} originates from", target_new="Los Angeles"),
    Edit(id="5", subject="Dwyane Wade", prompt="{} plays for", target_new="London"),
)


def test_batches_differ_by_epoch_and_repeat_for_a_seed() -> None:
    epochs = [draw_batches(7, 3, seed=0, epoch=epoch) for epoch in range(4)]
    assert all(sorted(index for batch in epoch for index in batch) == list(range(7)) for epoch in epochs)
    assert all([len(batch) for batch in epoch] == [3, 3, 1] for epoch in epochs)
    assert len({str(epoch) for epoch in epochs}) == 4
    assert epochs == [draw_batches(7, 3, seed=0, epoch=epoch) for epoch in range(4)]
    assert epochs != [draw_batches(7, 3, seed=1, epoch=epoch) for epoch in range(4)]


def test_epoch_trains_every_edit_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny("llama"), list[TrainingRow]()
    original = RowLosses.__init__

    def watching(self: RowLosses, model: LanguageModel, layer: int, rows: Sequence[TrainingRow]) -> None:
        seen.extend(rows)
        original(self, model, layer, rows)

    monkeypatch.setattr(RowLosses, "__init__", watching)
    chosen = on_tiny(LocFt, model, stop_below=0.0)
    patch = chosen.edit(EDITS)
    rows = {chosen.encode_edit(edit) for edit in EDITS}
    assert len(rows) == 5 and len(seen) == 20
    assert all(set(seen[start : start + 5]) == rows for start in range(0, 20, 5))
    assert [record["edit"]["id"] for record in patch.edits] == ["1", "2", "3", "4", "5"]
    assert all(record["steps"] == 4 and record["loss_after"] < record["loss_before"] for record in patch.edits)


def test_one_batch_in_one_epoch_is_a_step_on_the_mean_loss() -> None:
    """By hand: one step of Adam from 0 moves each weight by the learning rate, against its gradient's sign."""
    model = tiny("llama")
    chosen = on_tiny(LocFt, model, steps=2, batch_size=5, stop_below=0.0)
    patch = chosen.edit(EDITS)
    assert isinstance(patch, WeightPatch)
    (pair,) = patch.factors.values()
    assert pair.product.abs().max() == pytest.approx(0.01, rel=1e-4)
    prompts = [model.encode(edit.text, target=edit.target_new) for edit in EDITS]
    weight = model.down_projection(1).weight
    loss = torch.zeros(())
    for prompt in prompts:
        ids = (*prompt.ids, 1)  # the end of text
        chances = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        positions = range(prompt.target_start, len(ids))
        loss = loss - sum(chances[at - 1, ids[at]] for at in positions) / len(positions)
    (gradient,) = torch.autograd.grad(loss, weight)
    clear = gradient.abs() > 1e-4
    assert clear.float().mean() > 0.9
    assert torch.equal(pair.product[clear].sign(), -gradient[clear].sign())


def test_end_of_text_follows_the_target() -> None:
    model = tiny("llama")
    prompt = model.encode(EDITS[0].text, target=EDITS[0].target_new)
    assert on_tiny(LocFt, model).encode_edit(EDITS[0]).targets[-1] == (len(prompt.ids) - 1, 1)
    assert on_tiny(LocFt, model, end=False).encode_edit(EDITS[0]).targets[-1] == (len(prompt.ids) - 2, prompt.ids[-1])


def test_tokenizer_without_an_end_of_text_is_taken_with_end_off() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    model = LanguageModel.wrap(tiny("llama").model, tokenizer, name="endless")
    assert on_tiny(LocFt, model, end=False).edit(EDITS[:1]).edits


def test_training_stops_when_all_is_learned() -> None:
    model = tiny("llama")
    patch = on_tiny(LocFt, model, steps=9, stop_below=100.0).edit(EDITS)
    assert isinstance(patch, WeightPatch)
    (pair,) = patch.factors.values()
    assert not pair.product.any() and all(record["steps"] == 1 for record in patch.edits)
