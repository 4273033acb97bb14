"""The public program's GLAME: dropout, self-loops, a leaky g, and an R-GNN that goes on from edit to edit."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.methods.glame.method import Glame, GlameConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

FIRST = Edit(id="1", subject="LeBron James", prompt="{} plays for", relation="team", target_new="Miami Heat")
SECOND = FIRST.model_copy(update={"id": "2", "subject": "Dwyane Wade"})


def method(model: LanguageModel, **settings: Any) -> Glame:
    graph = nx.DiGraph()
    graph.add_edge("Miami Heat", "Miami", label="city")
    return Glame(model, GlameConfig.preset("code", {**QUICK["glame"], "steps": 3, **settings}), graph=graph)


def patches_of(*edits: Edit, **settings: Any) -> list[WeightPatch]:
    results = method(tiny("llama"), **settings).edit_each(edits)
    assert all(isinstance(patch, WeightPatch) for patch in results)
    return [patch for patch in results if isinstance(patch, WeightPatch)]


def left(patch: WeightPatch) -> torch.Tensor:
    (factors,) = patch.factors.values()
    return factors.left


@pytest.mark.slow
def test_warm_start_continues_from_the_last_edit() -> None:
    alone, after = patches_of(SECOND)[0], patches_of(FIRST, SECOND)[1]
    assert not torch.allclose(left(alone), left(after), rtol=1e-2)
    assert torch.equal(left(patches_of(FIRST, SECOND)[1]), left(after)), "the same order gives the same value"


def test_start_anew_forgets_the_last_edit() -> None:
    """As a server's try does, so that a kept patch can be made again."""
    editor = method(tiny("llama"))
    first, later = (editor.edit_each([FIRST])[0] for _ in range(2))
    editor.start_anew()
    again = editor.edit_each([FIRST])[0]
    assert isinstance(first, WeightPatch) and isinstance(later, WeightPatch) and isinstance(again, WeightPatch)
    assert not torch.allclose(left(first), left(later), rtol=1e-2) and torch.equal(left(first), left(again))


def test_without_warm_start_edits_are_independent() -> None:
    alone, after = (patches_of(*edits, warm_start=False)[-1] for edits in ((SECOND,), (FIRST, SECOND)))
    torch.testing.assert_close(left(alone), left(after), rtol=1e-3, atol=1e-4)


def test_final_value_has_no_dropout() -> None:
    """The last evaluation follows those of the descent; it has no noise, so it can be repeated."""
    (noisy,), (plain,) = (
        patches_of(FIRST, clamp_norm_factor=0.5, dropout=share, keep_lowest=False) for share in (0.15, 0.0)
    )
    assert (noisy.edits[0]["steps"], plain.edits[0]["steps"]) == (4, 3)
    model = tiny("llama")
    change, _ = method(model).propose([FIRST], torch.ones(1, model.width))
    final, again = change.settle(), change.settle()
    assert final is not None and again is not None and torch.equal(final, again)
    assert not torch.allclose(change.change(), final) and not torch.allclose(change.change(), change.change())
    quiet, _ = method(model, dropout=0.0, keep_lowest=False).propose([FIRST], torch.ones(1, model.width))
    assert quiet.settle() is None


def paper(**settings: Any) -> tuple[Glame, WeightPatch]:
    model, graph = tiny("llama"), nx.DiGraph()
    graph.add_edge("Miami Heat", "Miami", label="city")
    glame = Glame(model, GlameConfig.preset("paper", {**QUICK["glame"], **settings}), graph=graph)
    patch = glame.edit([FIRST])
    assert isinstance(patch, WeightPatch)
    return glame, patch


@pytest.mark.slow
def test_paper_ends_with_the_lowest_loss() -> None:
    """A rate that is far too large ends worse than it was; the public program then takes the best change."""
    wild = {"steps": 6, "learning_rate": 30.0, "clamp_norm_factor": 30.0}
    (_, last), (_, best) = (paper(**wild, keep_lowest=keep) for keep in (False, True))
    assert best.edits[0]["loss_after"] < last.edits[0]["loss_after"] - 0.1
    (_, tame) = paper(steps=3)
    assert tame.edits[0]["steps"] == 3, "an end that counts is not evaluated again"


def test_change_of_paper_has_both_signs() -> None:
    """With a ReLU at the end no coordinate of m* - m could fall."""
    glame, _ = paper(steps=2)
    change, _ = glame.propose([FIRST], torch.ones(1, glame.model.width))
    delta = change.change()
    assert float(delta.detach().min()) < 0 < float(delta.detach().max())
