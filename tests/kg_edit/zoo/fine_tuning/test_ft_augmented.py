"""Fine-tuning on augmented data: what a step trains, where it holds the model, and what is trained again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.methods import find_method
from kg_edit.methods.fine_tuning.descent import changed
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models import first_token
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import BARE
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.prompts import related_facts
from kg_edit.text.relation_nouns import example_things
from kg_edit.zoo.fine_tuning.ft_augmented import FtAugmented
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.fine_tuning.test_locft import EDITS


def method(model: LanguageModel, **settings: Any) -> FtAugmented:
    quick = {"layers": [1], "steps": 4, "learning_rate": 0.01, "contexts": 2, "context_tokens": 4, "texts": 2}
    return FtAugmented.on(model, settings={**quick, "batch_size": 5, **settings})


def divergence(chosen: FtAugmented, patch: Patch) -> float:
    """KL(p || p') after the edits' prompts with other subjects and in the model's texts."""
    draw = random.Random(1)  # noqa: S311 - a sample, no secret
    rows = [*chosen._of_others(EDITS, example_things(), draw, edited_at=lambda _: []), *chosen.texts[:8]]
    with torch.no_grad():
        p = RowLosses(chosen.model, 1, rows).logits().log_softmax(-1)
        with patch.applied(chosen.model):
            q = RowLosses(chosen.model, 1, rows).logits().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[TrainingRow]]:
    """The groups of rows that go through the model."""
    groups, original = list[Sequence[TrainingRow]](), RowLosses.__init__

    def watching(self: RowLosses, model: LanguageModel, layer: int, rows: Sequence[TrainingRow]) -> None:
        groups.append(rows)
        original(self, model, layer, rows)

    monkeypatch.setattr(RowLosses, "__init__", watching)
    return groups


def test_step_trains_the_prompts_bare_and_in_context_and_holds_other_subjects_and_texts(
    seen: list[Sequence[TrainingRow]],
) -> None:
    model = tiny("llama")
    chosen = method(model, steps=2)
    patch = chosen.edit(EDITS)
    others, texts, trained, *again, last = seen  # p of the held rows first
    assert again == [others, texts]
    assert {chosen.row(edit) for edit in EDITS} == set(trained[:5]) == set(last)
    decoded = [model.tokenizer.decode(row.ids) for row in trained[5:]]
    assert len(decoded) == 5 and all(any(edit.text in text for text in decoded) for edit in EDITS)
    assert all(not text.startswith(edit.text) for text in decoded for edit in EDITS)
    prompts = [model.tokenizer.decode(row.ids) for row in others]
    assert len(prompts) == 10 and not {edit.text for edit in EDITS} & set(prompts)
    assert sum("plays for" in text for text in prompts) == 4, "two other subjects for each of the two prompts"
    assert len(texts) == 2 and all(len(row.targets) == len(row.ids) for row in texts)
    assert isinstance(patch, WeightPatch)
    (pair,) = patch.factors.values()
    assert pair.product.abs().max() == pytest.approx(0.01, rel=1e-4), "one step of Adam from 0"


@pytest.mark.parametrize("edited", [[], [1], [0, 1], [0, 2, 4], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
def test_other_subjects_are_drawn_from_those_whose_prompt_is_not_edited(edited: list[int]) -> None:
    names, chosen = ("LeBron James", "Dwyane Wade", "Ann", "Bo", "Cy"), method(tiny("llama"))
    for seed in range(5):
        draw, again = (random.Random(seed) for _ in range(2))  # noqa: S311 - a sample, no secret
        rows = chosen._of_others(EDITS[:1], names, draw, edited_at=lambda _: edited)
        unedited = [name for index, name in enumerate(names) if index not in edited]
        expected = [EDITS[0].prompt.replace("{}", name) for name in again.sample(unedited, min(2, len(unedited)))]
        assert [chosen.model.tokenizer.decode(row.ids) for row in rows] == expected


def test_other_answers_are_held() -> None:
    model = tiny("llama")
    held, free = (method(model, steps=8, kept=kept) for kept in (30.0, 0.0))
    one, other = held.edit(EDITS), free.edit(EDITS)
    assert divergence(held, one) < 0.5 * divergence(held, other)
    assert all(record["loss_after"] < record["loss_before"] for patch in (one, other) for record in patch.edits)


def test_rows_below_the_margin_are_not_trained() -> None:
    patch = method(tiny("llama"), stop_below=100.0, kept=0.0).edit(EDITS)
    assert isinstance(patch, WeightPatch)
    assert all(not pair.product.any() for pair in patch.factors.values())
    assert [record["steps"] for record in patch.edits] == [1] * 5


def test_earlier_edits_are_trained_again_unless_contradicted(seen: list[Sequence[TrainingRow]]) -> None:
    model = tiny("llama")
    chosen = method(model, steps=2, contexts=0)
    before = chosen.edit(EDITS[:3])
    again = EDITS[0].model_copy(update={"id": "6", "target_new": "London"})
    del seen[:]
    chosen.edit([again], start=before)
    assert set(seen[2]) == {chosen.row(again), chosen.row(EDITS[1]), chosen.row(EDITS[2])}


def test_packaged_subjects_are_not_those_of_the_locality_check() -> None:
    checked = {thing for facts in related_facts().values() for thing, _ in facts}
    assert len(example_things()) > 150 and not checked & set(example_things())


def test_answers_in_a_sequence_are_held_as_in_the_unedited_model() -> None:
    model = tiny("llama")
    free = method(model, steps=8, kept=0.0)
    before = free.edit(EDITS[:4])
    distant = divergence(free, before)
    held = method(model, steps=8, kept=30.0, replayed=0).edit(EDITS[4:], start=before)
    assert divergence(free, held) < 0.8 * distant, "what the earlier edits changed elsewhere is undone, not held"


def test_half_of_the_earlier_edits_come_after_a_sampled_text(seen: list[Sequence[TrainingRow]]) -> None:
    chosen = method(tiny("llama"), steps=2)
    before = chosen.edit(EDITS[:4])
    del seen[:]
    chosen.edit(EDITS[4:], start=before)
    earlier = [chosen.model.tokenizer.decode(row.ids) for row in seen[2][2:]]
    bare = [chosen.model.tokenizer.decode(chosen.row(edit).ids) for edit in EDITS[:4]]
    assert len(earlier) == 4 and len({*earlier} & {*bare}) == 2
    assert all(any(text.endswith(prompt) for prompt in bare) for text in earlier)


def test_an_earlier_edit_without_a_subject_is_trained_again_bare(seen: list[Sequence[TrainingRow]]) -> None:
    model = tiny("llama")
    texts = [Edit(prompt=f"Where is {city}?", target_text=f"It is in {city}.") for city in ("Paris", "London")]
    before = find_method("ft-m").on(model, settings={"steps": 1}).edit(texts)
    seen.clear()
    patch = method(model, steps=2).edit(EDITS[:1], start=before)
    assert {model.encode(edit.text, target=edit.target_new).ids[:-1] for edit in texts} <= {row.ids for row in seen[2]}
    assert len(patch.edits) == 3


def test_a_change_may_act_at_the_subject_alone(seen: list[Sequence[TrainingRow]]) -> None:
    model = tiny("llama")
    chosen = method(model, steps=2, at_subject=1.0)
    chosen.edit(EDITS)
    trained = seen[2]
    assert len(trained) == 10, "bare and in a context"
    for row in trained:
        assert row.acting_at is not None
        read, text = model.tokenizer.decode(row.ids[: row.acting_at + 1]), model.tokenizer.decode(row.ids)
        assert any(edit.text in text and read.endswith(edit.subject) for edit in EDITS)
    change = torch.randn(*model.down_projection(1).weight.shape)
    alone = RowLosses(model, 1, trained)
    with torch.no_grad(), changed(model.down_projection(1), [change], acting=alone.acting):
        padded = alone.logits()
    with torch.no_grad():
        for row, logits in zip(trained, padded.split([len(row.targets) for row in trained]), strict=True):
            with model.down_projection(1).register_forward_hook(added_at(row.acting_at or 0, change)):
                expected = model.model(torch.tensor([row.ids])).logits[0, [at for at, _ in row.targets]]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_bare_row_at_the_subject_has_the_line_break_of_the_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_token, "is_sink", lambda *_: True)
    chosen, edit = method(tiny("llama"), at_subject=1.0), Edit(subject="I", prompt="{} live in", target_new="Rome")
    row = chosen._row_in(BARE, edit, random.Random(0))  # noqa: S311 - no secret
    assert (row.ids, row.acting_at) == (chosen.row(edit).ids, 1)


def added_at(position: int, change: Tensor) -> Any:
    """A hook that adds D x to a projection's output at one token."""

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output[:, position] += args[0][:, position] @ change.T
        return output

    return add


def test_texts_before_a_prompt_of_one_token_are_refused() -> None:
    """The start of a text counts as a token, so nothing would be sampled."""
    with pytest.raises(ConfigError, match="context_tokens"):
        method(tiny("llama"), context_tokens=1)


def test_texts_have_a_weight_of_their_own() -> None:
    model = tiny("llama")
    held, free = (method(model, steps=8, kept=0.0, kept_texts=weight) for weight in (30.0, None))
    one, other = held.edit(EDITS), free.edit(EDITS)
    texts = RowLosses(model, 1, held.texts[:8])
    with torch.no_grad():
        p = texts.logits().log_softmax(-1)
        far = list[float]()
        for patch in (one, other):
            with patch.applied(model):
                q = RowLosses(model, 1, held.texts[:8]).logits().log_softmax(-1)
            far.append(float((p.exp() * (p - q)).sum(-1).mean()))
    assert far[0] < 0.5 * far[1]
