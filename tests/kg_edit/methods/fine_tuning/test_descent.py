"""Descents of several edits in the same passes: each is as it would be alone, and stops alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.passes import PassLimit
from kg_edit.errors import PatchError
from kg_edit.methods import find_method
from kg_edit.methods.fine_tuning import base
from kg_edit.methods.fine_tuning.descent import (
    AdamDescent,
    DescentResult,
    EditDescent,
    add_changes,
    descend_edits,
    new_change,
)
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from tests.everyday import keep_first
from tests.kg_edit.tiny import tiny

LAYER = 1
SETTINGS = AdamDescent(steps=12, learning_rate=5e-3, stop_below=4.0)


def row(ids: Sequence[int], token: int) -> TrainingRow:
    """The last token of ``ids`` should predict the token ``token``."""
    return TrainingRow(ids=tuple(ids), targets=((len(ids) - 1, token),))


ROWS = [[row((5, 6, 7), 11)], [row((9, 4), 3), row((8, 8, 2, 1), 6)], [row((30, 31, 32, 33, 34), 40)], [row((7,), 2)]]


def own_descent(model: LanguageModel, rows: Sequence[TrainingRow]) -> EditDescent:
    return EditDescent(rows=rows, change=new_change(model.down_projection(LAYER)))


def alone(model: LanguageModel, rows: Sequence[TrainingRow], settings: AdamDescent) -> tuple[Tensor, list[float]]:
    """The same descent with one change of the weight, and no other edit."""
    module = model.down_projection(LAYER)
    change, losses = new_change(module), RowLosses(model, LAYER, rows)
    with add_changes(module, [change]):
        seen = settings.run([change], lambda: losses().mean())
    return change.detach(), seen


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2", "opt"]))
@pytest.mark.parametrize("dtype", keep_first([torch.float32, torch.bfloat16]))
def test_shared_passes_equal_single_descents(family: str, dtype: torch.dtype) -> None:
    model = tiny(family)
    model = replace(model, model=deepcopy(model.model).to(dtype))
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.02}
    with keep_untouched(model):
        results = descend_edits(model, LAYER, [own_descent(model, rows) for rows in ROWS], SETTINGS)
        plain = [alone(model, rows, SETTINGS) for rows in ROWS]
    for result, (change, seen) in zip(results, plain, strict=True):
        assert change.abs().max() > 0 and result.error is None
        if dtype == torch.float32:
            assert len(result.losses) == len(seen)
            torch.testing.assert_close(result.change, change, **tolerance)
        torch.testing.assert_close(result.losses[:3], seen[:3], **tolerance)
    if dtype == torch.float32:
        assert len({len(result.losses) for result in results}) > 2, "they stop at different steps"


def test_loss_that_is_not_finite_ends_its_edit_only() -> None:
    model = tiny("llama")
    with keep_untouched(model):
        edits = [own_descent(model, rows) for rows in ROWS]
        change_of_first = edits[0].change
        edits[0] = replace(edits[0], constrain=lambda: change_of_first.data.fill_(float("nan")))
        broken, *others = descend_edits(model, LAYER, edits, SETTINGS)
        plain = [alone(model, rows, SETTINGS) for rows in ROWS[1:]]
    assert isinstance(broken.error, PatchError) and len(broken.losses) == 1
    for result, (change, _) in zip(others, plain, strict=True):
        assert result.error is None
        torch.testing.assert_close(result.change, change, rtol=1e-4, atol=1e-5)


def test_rows_of_finished_edits_leave_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = tiny("llama"), list[int]()
    original = RowLosses.__init__

    def watching(self: RowLosses, model: LanguageModel, layer: int, rows: Sequence[TrainingRow]) -> None:
        sizes.append(len(rows))
        original(self, model, layer, rows)

    monkeypatch.setattr(RowLosses, "__init__", watching)
    with keep_untouched(model):
        descend_edits(model, LAYER, [own_descent(model, rows) for rows in ROWS], SETTINGS)
    assert sizes[0] == 5 and len(sizes) > 1
    assert all(later < first for first, later in pairwise(sizes))


EDITS = [Edit(id=str(number), subject="France", prompt="In {}, the capital is", target_new=name)
         for number, name in enumerate(("Rome", "Paris", "London"))]  # fmt: skip


def test_group_is_as_large_as_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, groups = tiny("llama"), list[int]()
    original = base.descend_edits

    def watching(
        model: LanguageModel, layer: int, edits: Sequence[EditDescent], settings: AdamDescent
    ) -> list[DescentResult]:
        groups.append(len(edits))
        return original(model, layer, edits, settings)

    monkeypatch.setattr(base, "descend_edits", watching)
    method = find_method("ft-m").on(model, settings={"steps": 3})
    runs = [method.edit_each(EDITS)]
    method.memory = 2 * 4 * 2 * weight_matrix(model.down_projection(LAYER)).nbytes / 1e6  # half of it: two changes
    runs.append(method.edit_each(EDITS))
    method.memory = 1000.0
    monkeypatch.setattr(base, "pass_limit", lambda model, layer, megabytes: PassLimit(10))  # fewer than two rows have
    runs.append(method.edit_each(EDITS))
    assert groups == [3, 2, 1, 1, 1, 1]
    for each in zip(*runs, strict=True):
        losses = [patch.edits[0]["loss_after"] for patch in each if isinstance(patch, Patch)]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
