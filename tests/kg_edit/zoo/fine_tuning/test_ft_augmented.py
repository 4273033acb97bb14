"""Fine-tuning on augmented data: what a step trains, where it holds the model, and what is trained again."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.methods.fine_tuning.descent import add_changes
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models import first_token
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.prompts import related_facts
from kg_edit.text.relation_nouns import example_things
from kg_edit.zoo.fine_tuning.ft_augmented import AugmentedRows, FtAugmented, StepRows, mean_divergence
from tests.kg_edit.on_tiny import of_kind, on_tiny
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.fine_tuning.test_locft import EDITS

QUICK = {"layers": [1], "steps": 4, "learning_rate": 0.01, "contexts": 2, "context_tokens": 4, "texts": 2}


def ft_augmented(model: LanguageModel, **settings: Any) -> FtAugmented:
    return on_tiny(FtAugmented, model, **{**QUICK, "batch_size": 5, **settings})


def first_step(chosen: FtAugmented, edits: Sequence[Edit], before: Patch | None = None) -> StepRows:
    """The rows of the first step."""
    chosen.prepare()
    rows = AugmentedRows(chosen, edits, before or chosen.empty_patch())
    return rows.draw(0, range(len(edits)))


def divergence(chosen: FtAugmented, patch: Patch, rows: Sequence[TrainingRow] | None = None) -> float:
    """KL(p || p') after the edits' prompts with other subjects and in the model's texts, or after given rows."""
    if rows is None:
        rows = [*first_step(chosen, EDITS).others, *chosen.texts[:8]]
    with torch.no_grad():
        p = chosen.log_probabilities(rows)
        with patch.applied(chosen.model):
            q = chosen.log_probabilities(rows)
    return float(mean_divergence(p, q))


def test_step_trains_the_prompts_bare_and_in_context_and_holds_other_subjects_and_texts() -> None:
    model = tiny("llama")
    chosen = ft_augmented(model, steps=2)
    rows = first_step(chosen, EDITS)
    assert [chosen.encode_edit(edit) for edit in EDITS] == list(rows.edited[:5])
    decoded = [model.tokenizer.decode(row.ids) for row in rows.edited[5:]]
    assert len(decoded) == 5
    for edit, text in zip(EDITS, decoded, strict=True):
        assert edit.text in text and not text.startswith(edit.text)
    prompts = [model.tokenizer.decode(row.ids) for row in rows.others]
    assert len(prompts) == 10 and not {edit.text for edit in EDITS} & set(prompts)
    assert sum("plays for" in text for text in prompts) == 4, "two other subjects for each of the two prompts"
    assert len(rows.texts) == 2 and all(len(row.targets) == len(row.ids) for row in rows.texts)
    (pair,) = of_kind(WeightPatch, chosen.edit(EDITS)).factors.values()
    assert pair.product.abs().max() == pytest.approx(0.01, rel=1e-4), "one step of Adam from 0"


def test_other_subjects_are_those_whose_prompt_is_not_edited() -> None:
    """Of 202 names and two edited ones, all but the edited ones are asked about."""
    chosen = ft_augmented(tiny("llama"), subjects=1000)
    names = dict.fromkeys([*(edit.subject for edit in EDITS), *example_things()])
    template = EDITS[0].prompt
    edited = {edit.subject for edit in EDITS if edit.prompt == template}
    assert len(edited) == 2
    rows = AugmentedRows(chosen, EDITS, chosen.empty_patch()).about_others(EDITS[0], Random(0))  # noqa: S311 - no secret
    asked = {chosen.model.tokenizer.decode(row.ids) for row in rows}
    assert asked == {template.replace("{}", name) for name in names if name not in edited}


@pytest.mark.slow
def test_other_answers_are_held() -> None:
    model = tiny("llama")
    held, free = (ft_augmented(model, steps=8, kept=kept) for kept in (30.0, 0.0))
    one, other = held.edit(EDITS), free.edit(EDITS)
    assert divergence(held, one) < 0.5 * divergence(held, other)
    assert all(record["loss_after"] < record["loss_before"] for patch in (one, other) for record in patch.edits)


@pytest.mark.slow
def test_rows_below_the_margin_are_not_trained() -> None:
    patch = ft_augmented(tiny("llama"), stop_below=100.0, kept=0.0).edit(EDITS)
    assert isinstance(patch, WeightPatch)
    assert all(not pair.product.any() for pair in patch.factors.values())
    assert [record["steps"] for record in patch.edits] == [1] * 5


def test_earlier_edits_are_trained_again_unless_contradicted() -> None:
    model = tiny("llama")
    chosen = ft_augmented(model, steps=2, contexts=0)
    before = chosen.edit(EDITS[:3])
    again = EDITS[0].model_copy(update={"id": "6", "target_new": "London"})
    assert set(first_step(chosen, [again], before).edited) == {
        chosen.encode_edit(again),
        chosen.encode_edit(EDITS[1]),
        chosen.encode_edit(EDITS[2]),
    }


def test_packaged_subjects_are_not_those_of_the_locality_check() -> None:
    checked = {thing for facts in related_facts().values() for thing, _ in facts}
    assert len(example_things()) > 150 and not checked & set(example_things())


@pytest.mark.slow
def test_answers_in_a_sequence_are_held_as_in_the_unedited_model() -> None:
    model = tiny("llama")
    free = ft_augmented(model, steps=8, kept=0.0)
    before = free.edit(EDITS[:4])
    distant = divergence(free, before)
    held = ft_augmented(model, steps=8, kept=30.0, replayed=0).edit(EDITS[4:], start=before)
    assert divergence(free, held) < 0.8 * distant, "what the earlier edits changed elsewhere is undone, not held"


@pytest.mark.slow
def test_half_of_the_earlier_edits_come_after_a_sampled_text() -> None:
    chosen = ft_augmented(tiny("llama"), steps=2)
    before = chosen.edit(EDITS[:4])
    rows = first_step(chosen, EDITS[4:], before)
    earlier = [chosen.model.tokenizer.decode(row.ids) for row in rows.edited[2:]]
    bare = [chosen.model.tokenizer.decode(chosen.encode_edit(edit).ids) for edit in EDITS[:4]]
    assert len(earlier) == 4 and len({*earlier} & {*bare}) == 2
    assert all(any(text.endswith(prompt) for prompt in bare) for text in earlier)


@pytest.mark.slow
def test_an_earlier_edit_without_a_subject_is_trained_again_bare() -> None:
    model = tiny("llama")
    texts = [Edit(prompt=f"Where is {city}?", target_text=f"It is in {city}.") for city in ("Paris", "London")]
    before = find_method("ft-m").on(model, settings={"steps": 1}).edit(texts)
    chosen = ft_augmented(model, steps=2)
    trained = {row.ids for row in first_step(chosen, EDITS[:1], before).edited}
    assert {model.encode(edit.text, target=edit.target_new).ids[:-1] for edit in texts} <= trained
    assert len(chosen.edit(EDITS[:1], start=before).edits) == 3


@pytest.mark.slow
def test_a_change_may_act_at_the_subject_alone() -> None:
    model = tiny("llama")
    chosen = ft_augmented(model, steps=2, at_subject=1.0)
    trained = first_step(chosen, EDITS).edited
    assert len(trained) == 10, "bare and in a context"
    for row in trained:
        assert row.acting_at is not None
        read, text = model.tokenizer.decode(row.ids[: row.acting_at + 1]), model.tokenizer.decode(row.ids)
        assert any(edit.text in text and read.endswith(edit.subject) for edit in EDITS)
    change = torch.randn(*model.down_projection(1).weight.shape)
    alone = RowLosses(model, 1, trained)
    with torch.no_grad(), add_changes(model.down_projection(1), [change], acting=alone.acting):
        padded = alone.logits()
    with torch.no_grad():
        for row, logits in zip(trained, padded.split([len(row.targets) for row in trained]), strict=True):
            with model.down_projection(1).register_forward_hook(added_at(row.acting_at or 0, change)):
                expected = model.model(torch.tensor([row.ids])).logits[0, [at for at, _ in row.targets]]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_bare_row_at_the_subject_has_the_line_break_of_the_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_token, "is_sink", lambda *_: True)
    chosen, edit = (
        ft_augmented(tiny("llama"), at_subject=1.0),
        Edit(subject="I", prompt="{} live in", target_new="Rome"),
    )
    row = first_step(chosen, [edit]).edited[0]
    assert (row.ids, row.acting_at) == (chosen.encode_edit(edit).ids, 1)


def added_at(position: int, change: Tensor) -> Any:
    """A hook that adds D x to a projection's output at one token."""

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output[:, position] += args[0][:, position] @ change.T
        return output

    return add


@pytest.mark.slow
def test_texts_have_a_weight_of_their_own() -> None:
    model = tiny("llama")
    held = ft_augmented(model, steps=8, kept=0.0, kept_texts=30.0)
    free = ft_augmented(model, steps=8, kept=0.0, kept_texts=None)
    texts = held.texts[:8]
    assert divergence(held, held.edit(EDITS), texts) < 0.5 * divergence(held, free.edit(EDITS), texts)
