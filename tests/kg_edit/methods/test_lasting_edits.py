"""The settings for long sequences in the methods: earlier edits stay, also if a run is killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import RefusedEditsError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.run import evaluate
from kg_edit.locate_then_edit.descent import Delta, Descent, Stops, descend
from kg_edit.locate_then_edit.objective import Objective
from kg_edit.methods import find_method
from kg_edit.methods.value_method import ValueMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches import KEY
from kg_edit.patches.adapter_patch import AdapterPatch
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits
from kg_edit.zoo.comeba.adapter import GatedUpdate
from tests.everyday import keep_first
from tests.kg_edit.methods.memit.joint import EDITS, state_at
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.methods.test_methods import graph
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import tiny

NAMES = (
    "rome",
    "memit",
    "emmet",
    "glame",
    "glame-batch",
    "r-rome",
    "rome-kg",
    "memit-kg",
    "pmet",
    "eamet",
    "glame-plus",
)
FIRST, SECOND = (
    Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Los Angeles Lakers", target_new_id="Q2"),
    Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome", target_new_id="Q4"),
)


def value_method(name: str, model: LanguageModel, **settings: Any) -> ValueMethod:
    method = on_tiny(name, model, graph=graph(), **settings)
    assert isinstance(method, ValueMethod)
    return method


def outputs(patch: Patch, model: LanguageModel, key: Tensor) -> Tensor:
    assert isinstance(patch, WeightPatch)
    return patch.factors[model.weight_name(1)].product @ key


JOINT = ("memit", "emmet", "pmet", "eamet", "alphaedit", "memit-kg", "comeba", "glame-batch")


@pytest.mark.parametrize("name", keep_first(JOINT))
def test_fact_that_is_edited_again_is_changed_as_if_for_the_first_time(name: str) -> None:
    """Its earlier key is no obstacle; those of other facts are."""
    model = tiny("llama")
    changed = FIRST.model_copy(update={"id": "3", "target_new": "Miami Heat"})

    def factors(remember: float, edits: Sequence[Edit]) -> Tensor:
        method = value_method(name, model, remember=remember)
        patch = method.edit([changed], before=value_method(name, model, remember=1.0).edit(edits))
        if isinstance(patch, AdapterPatch):
            adapter = patch.adapters["comeba", model.weight_name(1)]
            assert isinstance(adapter, GatedUpdate)
            return adapter.update.product
        assert isinstance(patch, WeightPatch)
        return patch.factors[model.weight_name(1)].product

    off = 1e-9
    torch.testing.assert_close(factors(1.0, [FIRST]), factors(off, [FIRST]))
    assert not torch.allclose(factors(1.0, [FIRST, SECOND]), factors(off, [FIRST, SECOND]), rtol=1e-3)


@pytest.mark.parametrize("name", keep_first(NAMES))
def test_remembered_edit_is_moved_less_by_the_next(name: str, tmp_path: Path) -> None:
    """Also if the patch with its key was saved and read again, as a resumed sequence does."""
    model = tiny("llama")
    method, forgetful = value_method(name, model, remember=100.0), value_method(name, model, remember=0.0)
    first = method.edit([FIRST])
    assert isinstance(first, WeightPatch)
    key = first.state[KEY + model.weight_name(1)][:, 0]
    before = Patch.load(first.save(tmp_path / "first.safetensors"))
    moved, freely = (outputs(m.edit([SECOND], before=before), model, key).norm() for m in (method, forgetful))
    assert moved < 0.2 * freely


@pytest.mark.parametrize("name", keep_first(("memit", "rome", "emmet", "glame"), keep=1))
@pytest.mark.slow
def test_anchored_value_has_one_norm_for_every_edit(name: str) -> None:
    model = tiny("llama")
    method = value_method(name, model, anchor=50.0, remember=1.0)
    patch = method.edit([FIRST, SECOND])
    norm = patch.provenance["methods"][0]["value_norm"]
    assert norm == method.value_norm > 0
    for edit, record in zip((FIRST, SECOND), patch.edits, strict=True):
        _, value, _ = state_at(model, edit, method.layers[-1])
        assert abs(norm - value.norm()) - 1e-3 <= record["norms"]["change"] <= norm + value.norm() + 1e-3


@pytest.mark.slow
def test_anchor_of_several_layers_is_the_norm_of_the_values_in_the_last() -> None:
    """PMET's values are outputs of the MLP, too, but of the last layer that it writes."""
    several, last, first = (
        value_method("pmet", tiny("llama"), anchor=50.0, layers=layers) for layers in ([1, 2], [2], [1])
    )
    assert several.value_norm == last.value_norm != first.value_norm


@pytest.mark.slow
def test_the_others_of_a_batch_are_made_without_a_second_descent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A descent of a thousand edits takes an hour, of which one may be refused."""
    model, descents = tiny("llama"), list[int]()

    def counted(loss: Objective, delta: Delta, stops: Stops) -> list[Descent]:
        descents.append(len(loss.value))
        return descend(loss, delta, stops)

    with pytest.raises(RefusedEditsError) as both:
        value_method("memit", model, anchor=0.01).edit([FIRST, SECOND])
    lengths = {name: float(str(why).partition(" is ")[2].split()[0]) for name, why in both.value.reasons.items()}
    between = sum(lengths.values()) / 2
    rest, other = sorted((FIRST, SECOND), key=lambda edit: lengths[edit.id])

    monkeypatch.setattr("kg_edit.methods.memit.joint_method.descend", counted)
    fresh = value_method("memit", model, anchor=between)
    alone, before = fresh.edit([rest]), find_method("ft").on(model, settings=QUICK["ft"]).edit([EDITS[2]])
    method = value_method("memit", model, anchor=between)
    for start in (None, before, None):
        descents.clear()
        with pytest.raises(RefusedEditsError, match=other.id) as refused:
            method.edit([rest, other], start=start)
        again = refused.value.method.edit([rest], start=start)
        assert descents == [2], "none for the rest"
        if start is None:
            for name, pair in alone.factors.items():
                torch.testing.assert_close(again.factors[name].product, pair.product, rtol=1e-3, atol=1e-4)
        method.edit([rest], start=start)
        assert descents == [2, 1], "the method itself keeps nothing"
    with pytest.raises(RefusedEditsError) as refused:
        method.edit([rest, other])
    descents.clear()
    assert refused.value.method.edit([rest], start=before).edits and descents == [1], "on another patch"

    with pytest.raises(RefusedEditsError) as stopped:
        run_edits(method, model, [rest, other], tmp_path / "run", progress=False)
    assert stopped.value.__notes__[-1] == "--keep-going leaves such edits out, and makes the others"
    run = run_edits(method, model, [rest, other], tmp_path / "run", keep_going=True, progress=False)
    assert {row.edit for row in run.rows} == {rest.id}
    assert f"left out: the edit '{other.id}': the edit was refused: its value is" in caplog.text
    descents.clear()
    again = run_edits(method, model, [rest, other], tmp_path / "run", keep_going=True, progress=False)
    assert descents == [] and again.rows == run.rows


@pytest.mark.slow
@pytest.mark.parametrize("name", ["restrained-memit", "restrained-rome"])
def test_cut_sequence_with_switches_resumes_to_the_same(name: str, tmp_path: Path) -> None:
    model, uncut = tiny("llama"), tmp_path / "whole"
    batch = 2 if name == "restrained-memit" else 1
    config = EvalConfig(schedule=f"batch:{batch},sequential:3" if batch > 1 else "sequential:3")

    def run(out: Path) -> list[bytes]:
        evaluate(
            value_method(name, model, remember=1.0, anchor=50.0, sphere=0.5, rect=0.6, prune=1.2),
            model,
            EDITS,
            out=out,
            config=config,
        )
        return (out / "records.jsonl").read_bytes().splitlines(keepends=True)

    lines = run(uncut)
    for cut in range(1, len(lines), 3):
        part = tmp_path / f"cut-{cut}"
        shutil.copytree(uncut, part)
        (part / "records.jsonl").write_bytes(b"".join(lines[:cut]))
        assert [_without_times(line) for line in run(part)] == [_without_times(line) for line in lines]


def _without_times(line: bytes) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name not in ("seconds", "memory")}
