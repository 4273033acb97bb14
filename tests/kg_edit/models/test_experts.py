"""Mixtures of experts: methods that read no down-projection edit them, the others refuse them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.errors import UnsupportedModelError
from kg_edit.evaluation.run import evaluate
from kg_edit.methods.registry import find_method, method_names
from kg_edit.models.hooks import watch
from kg_edit.patches.base import Patch
from kg_edit.planning.machine import Machine
from kg_edit.planning.memory import estimate
from kg_edit.planning.shape import shape_of_config
from kg_edit.scoring import likelihood
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.kg_edit.scoring.test_likelihood import PAIRS, check_equal
from tests.kg_edit.tiny import EXPERTS, same_weights, tiny, weights_of

EDIT = Edit(id="1", prompt="{} plays for", subject="LeBron James", target_new="Miami Heat", target_true="the Lakers")
FITTING = ("definition", "lora", "rag", "ike", "memprompt", "mello", "adalora", "ext-sub", "serac")
FAMILIES = [pytest.param(name, marks=() if name == "qwen3_moe" else pytest.mark.slow) for name in EXPERTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_tree_equals_one_by_one(family: str) -> None:
    check_equal(tiny(family), PAIRS)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_model(family: str) -> None:
    """The head of Cohere's mixtures is scaled, as that of its other models."""
    model, seen = tiny(family), dict[str, torch.Tensor]()
    ids = torch.tensor([[5, 6, 7]])
    with watch(model.blocks[-1], lambda _, output: seen.update(state=output)):
        expected = model.model(ids).logits
    torch.testing.assert_close(model.logits(seen["state"]), expected)


def test_scores_do_not_depend_on_the_memory_of_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score(tiny("qwen3_moe"), PAIRS)
    monkeypatch.setattr(likelihood, "pass_megabytes", lambda _: 100.0)
    assert {pair: scores.nll for pair, scores in score(tiny("qwen3_moe"), PAIRS).items()} == pytest.approx(
        {pair: scores.nll for pair, scores in expected.items()}, abs=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["lora", "rag"])
def test_edit_is_made_saved_and_removed(name: str, family: str, tmp_path: Path) -> None:
    model, pair = tiny(family), Pair(EDIT.text, EDIT.target_new)
    weights, unedited = weights_of(model), score(model, [pair])[pair].nll
    find_method(name).on(model).edit([EDIT]).save(tmp_path / "patch.safetensors")
    with Patch.load(tmp_path / "patch.safetensors").applied(model) as edited:
        change = score(edited, [pair])[pair].nll - unedited
    assert change < -0.1 if name == "lora" else abs(change) > 0.1, "random models don't read what rag puts in front"
    assert same_weights(model, weights) and score(model, [pair])[pair].nll == pytest.approx(unedited, abs=1e-6)


def test_every_other_method_refuses_the_model_with_a_way_out() -> None:
    model = tiny("qwen3_moe")
    kinds = {name: find_method(name) for name in method_names() if name not in FITTING}
    others = {name: kind for name, kind in kinds.items() if not kind.needs_graph and name != "popularity-retrieval"}
    assert {"rome", "memit", "grace", "mend", "ke", "ultraedit", "ft-all", "wise"} <= {*others}
    for kind in others.values():
        settings = {"untrained": True} if "untrained" in kind.config_class.model_fields else {}
        with pytest.raises(UnsupportedModelError, match=r"is a mixture of experts.*take a method that.*rag"):
            editor = kind(model, kind.config_class(**settings))
            assert not editor.layers, "refused before its records are scored"
            editor.edit([EDIT])


def test_benchmark_runs(tmp_path: Path) -> None:
    model = tiny("qwen3_moe")
    summary = evaluate(find_method("rag").on(model), model, [EDIT], out=tmp_path / "run")
    assert abs(summary.edited["efficacy.nll"].mean - summary.base["efficacy.nll"].mean) > 0.1


def test_plan_counts_the_experts() -> None:
    shape = shape_of_config(tiny("qwen3_moe").model.config, name="experts")
    assert (shape.inner, shape.width) == (2 * 16, 32)
    assert shape.block > 4 * 3 * 16 * 32


def test_plan_refuses_what_the_method_refuses() -> None:
    shape = shape_of_config(tiny("qwen3_moe").model.config, name="experts")
    machine = Machine(device=torch.device("cpu"), host=10**12, accelerator=None)
    for name in method_names():
        kind = find_method(name)
        config = kind.config_class.model_construct()
        if name in (*FITTING, "graph-memory", "popularity-retrieval"):
            assert estimate(kind, config, shape, machine).parts
        else:
            with pytest.raises(UnsupportedModelError, match=r"experts is a mixture of experts.*rag"):
                estimate(kind, config, shape, machine)
