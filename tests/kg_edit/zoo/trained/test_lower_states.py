"""Rows that start at an upper block with stored states give what the whole model gives, and the lower blocks rest."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from kg_edit.models.hooks import keep_untouched, watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.zoo.mend.gradients import EditedPasses, edit_factors, mlp_weights, nll, read_tokens
from kg_edit.zoo.trained.lower_states import LowerStates, lower_states
from tests.kg_edit.tiny import families, tiny
from tests.kg_edit.zoo.mend.examples import hooks_of
from tests.kg_edit.zoo.mend.test_passes import prompts


def stored(model: LanguageModel, rows: list[Prompt], file: Path) -> LowerStates:
    return lower_states(model, map(read_tokens, rows), 2, file)


def lower_runs(model: LanguageModel, rows: list[Prompt], lower: LowerStates) -> int:
    """How often the MLP of one of the lower two blocks runs."""
    runs: list[int] = []
    with keep_untouched(model), ExitStack() as stack:
        for layer in range(2):
            stack.enter_context(watch(model.down_projection(layer), lambda *_: runs.append(1)))
        EditedPasses(model, rows, mlp_weights(model, 2), lower=lower)
    return len(runs)


@pytest.mark.parametrize("family", families(("llama", "gpt2")))
def test_lower_states_give_equal_logits_and_gradients(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    names, rows = mlp_weights(model, 2), prompts(model)
    with keep_untouched(model):
        full = EditedPasses(model, rows, names)
        upper = EditedPasses(model, rows, names, lower=stored(model, rows, tmp_path / "states"))
        torch.testing.assert_close(upper.logits([2, 0, 1]), full.logits([2, 0, 1]), rtol=1e-3, atol=1e-4)
        ours, theirs = (edit_factors(passes, nll(passes, range(3)), rows=3) for passes in (upper, full))
    for name in names:
        for one, other in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
    assert lower_runs(model, rows, stored(model, rows, tmp_path / "states")) == 0
    assert hooks_of(model) == 0 and not any("forward" in block.__dict__ for block in model.blocks)


def test_rows_without_states_run_the_whole_model(tmp_path: Path) -> None:
    model = tiny("llama")
    rows = prompts(model)
    lower = stored(model, rows[:2], tmp_path / "states")
    assert lower_runs(model, rows, lower) == 2
    with keep_untouched(model):
        logits = EditedPasses(model, rows, mlp_weights(model, 2), lower=lower).logits(range(3))
        expected = EditedPasses(model, rows, mlp_weights(model, 2)).logits(range(3))
    assert torch.equal(logits, expected)


def test_file_of_other_rows_is_recomputed(tmp_path: Path) -> None:
    model, file = tiny("llama"), tmp_path / "states"
    rows = prompts(model)
    stored(model, rows[:1], file)
    first = file.read_bytes()
    lower = stored(model, rows, file)
    assert len(file.read_bytes()) > len(first) and lower_runs(model, rows, lower) == 0
    file.unlink()
    file.write_bytes(first[:50])  # damaged
    assert torch.equal(stored(model, rows, file).states, lower.states)


def test_file_of_as_many_other_tokens_is_recomputed(tmp_path: Path) -> None:
    model, file = tiny("llama"), tmp_path / "states"
    lower_states(model, [(5, 6, 7), (8, 9)], 2, file)
    for rows, first in ([(5, 6, 7), (8, 4)], 2), ([(5, 6, 7), (8, 4)], 3), ([(5, 6), (7, 8, 4)], 3):
        lower = lower_states(model, rows, first, file)
        assert torch.equal(lower.states, lower_states(model, rows, first, tmp_path / f"{rows}-{first}").states)
