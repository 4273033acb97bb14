"""Rows that run again while the blocks are changed in ascending order, against running them from the start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.engine.replay import Ascending
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import left_pad
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.tiny import tiny

ROWS = [[[5, 6, 7, 8], [9, 10, 11]], [[12, 13]], [[14, 15, 16, 17, 18], [19, 20]]]  # three batches


def outputs(model: LanguageModel, layers: tuple[int, ...], *, memory: float) -> list[Tensor]:
    """What each batch puts out of the last of ``layers``, each time with the layers below it changed."""
    batches = [left_pad(rows, device=model.device) for rows in ROWS]
    runs = Ascending(model, batches, range(layers[0], layers[-1] + 1), memory=memory)
    results, patch = list[Tensor](), WeightPatch(factors={})
    for layer in layers:
        with torch.no_grad(), patch.applied_on_top(model):
            results += runs.run_through(layer, last=layers[-1])
        size, inner = weight_matrix(model.down_projection(layer)).shape
        pair = Factors(left=torch.linspace(-1, 1, size)[:, None], right=torch.linspace(1, 2, inner)[:, None] / inner)
        patch = WeightPatch(factors={**patch.factors, model.weight_name(layer): pair})
    return results


def test_only_recorded_blocks_from_the_layer_on_are_asked_for() -> None:
    model = tiny("llama")
    runs = Ascending(model, [left_pad(ROWS[0], device=model.device)], range(1, 3), memory=1.0)
    for layer, last in ((2, 1), (1, 3)):
        with pytest.raises(ValueError, match=f"last={last}"):
            next(runs.run_through(layer, last=last))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 2)])
def test_ascending_outputs_equal_a_full_run(family: str, layers: tuple[int, ...]) -> None:
    model = tiny(family)
    from_the_start = outputs(model, layers, memory=0.0)
    assert (from_the_start[0] - from_the_start[3]).abs().max() > 1e-3, "the changes are seen"
    one_batch_kept = 2 * 4 * 8 * model.width / 1e6
    for memory in (one_batch_kept, 1.0):
        for output, expected in zip(outputs(model, layers, memory=memory), from_the_start, strict=True):
            torch.testing.assert_close(output, expected)
