"""Edits removed from a ledger: the rest equals, bit for bit, a ledger in which they were never made."""

from __future__ import annotations

import random
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.subtraction import subtract_patch
from kg_edit.scoring.generation import ask
from kg_edit.ship.app.messages import view_of
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger.removal import check_same_graph
from kg_edit.ship.ledger.view import entry_lines
from tests.everyday import keep_first
from tests.kg_edit.methods.test_methods import EDIT, SECOND, graph
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up, same
from tests.kg_edit.tiny import same_weights, tiny, weights_of


@pytest.mark.parametrize(
    "taken", [[1, 3], *(pytest.param(taken, marks=pytest.mark.slow) for taken in ([0], [2], [0, 4]))]
)
def test_remove_from_a_sequence_equals_never_made(taken: list[int], tmp_path: Path) -> None:
    model, edits = tiny("llama"), edits_of(5)
    clean = weights_of(model)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(on_tiny("rome", model).edit(edits), force=True)
    ledger.remove([edits[index].id for index in taken], model=model)
    remaining = [edit for index, edit in enumerate(edits) if index not in taken]
    assert same(ledger.patch, on_tiny("rome", model).edit(remaining))
    assert same_weights(model, clean)


@pytest.mark.parametrize(
    ("count", "steps"), [(5, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((10, 2), (50, 1), (30, 3)))]
)
def test_remove_of_random_edits_equals_never_made(count: int, steps: int, tmp_path: Path) -> None:
    """Fifty are more than the rank of the weight, so that no edit has a column of its own any more."""
    model, edits, size = tiny("llama"), edits_of(count), count // steps
    ledger = Ledger.open(tmp_path / "ledger")
    for start in range(0, count, size):
        ledger.make(on_tiny("rome", model), edits[start : start + size], force=True)
    before = ledger.patch
    gone = random.Random(4).sample([edit.id for edit in edits], count // 5)  # noqa: S311 - no secret
    ledger.remove(gone, model=model)
    fresh = on_tiny("rome", model).edit([edit for edit in edits if edit.id not in gone])
    assert same(ledger.patch, fresh)
    assert {entry.name for entry in ledger.edits if entry.state == "removed"} == set(gone)
    ledger.undo()
    assert same(ledger.patch, before)


def test_remove_from_a_subtracted_patch_is_refused(tmp_path: Path) -> None:
    """The edits that are left would be recomputed without the subtraction."""
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(subtract_patch(made_up(edits_of(2)), made_up(edits_of(1, start=2))))
    with pytest.raises(PatchError, match="an anti-expert was subtracted"):
        ledger.remove(["e0"], model=tiny("llama"))
    ledger.remove(["1/*"])
    assert not ledger.active


@pytest.mark.slow
def test_remove_recomputes_only_later_steps(tmp_path: Path) -> None:
    model, edits = tiny("llama"), edits_of(6)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(on_tiny("rome", model), edits[:2], force=True)
    ledger.make(on_tiny("rome", model), edits[2:4], force=True)
    alone = on_tiny("rome", model).edit(edits[4:])
    ledger.add(alone)
    assert [step.after for step in ledger.steps] == [(), (1,), ()]
    ledger.remove(["e1"], model=model)
    assert [step.file.name for step in ledger.steps] == ["0004.safetensors", "0005.safetensors", "0003.safetensors"]
    first = on_tiny("rome", model).edit(edits[:1])
    expected = first + on_tiny("rome", model).edit(edits[2:4], before=first) + alone
    assert same(ledger.patch, expected)
    ledger.remove(["1/*"], model=model)
    assert same(ledger.patch, on_tiny("rome", model).edit(edits[2:4]) + alone)


def test_remove_says_how_many_steps_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each step has one edit, as those that `kg-edit serve` adds, so their own progress says little."""
    monkeypatch.setattr("kg_common.progress._LINE_S", 1e-6)
    model = tiny("llama")
    ledger = Ledger.open(tmp_path / "ledger")
    for edit in edits_of(4):
        ledger.make(on_tiny("rome", model), [edit], force=True)
    with caplog.at_level("INFO", "kg_common.progress"):
        ledger.remove(["e1"], model=model)
    assert "removing: 2 of 3 steps, about" in caplog.text


@pytest.mark.slow
def test_records_of_edits_are_of_the_active_patches(tmp_path: Path) -> None:
    model, edits = tiny("llama"), edits_of(6)
    ledger = Ledger.open(tmp_path / "ledger")
    for start in (0, 3):
        ledger.make(on_tiny("rome", model), edits[start : start + 3], force=True)
    old = {entry.name: entry.record for entry in ledger.edits}
    assert ledger.recomputed == {}
    ledger.remove(["e1"], model=model)
    ledger.remove(["e5"])
    now = {entry.name: entry for entry in ledger.edits}
    here = {record["edit"]["id"]: record for record in ledger.patch.edits}
    assert here.keys() == {"e0", "e2", "e3", "e4"} and all(now[name].record == here[name] for name in here)
    assert all(now[name].record == old[name] for name in ("e0", "e1", "e5")), "untouched, or as it was added"
    assert now["e2"].record["norms"] != old["e2"]["norms"]
    assert {position.id: event.number for position, event in ledger.recomputed.items()} == {"e2": 3, "e3": 3, "e4": 3}
    lines = dict(entry_lines(ledger, now["e2"]))
    assert lines["recomputed"].startswith("by event 3, ")
    assert lines["norm of the update"] == f"{here['e2']['norms']['update']:.4g}"
    assert "recomputed" not in dict(entry_lines(ledger, now["e0"]))
    view = {edit.name: edit for edit in view_of(ledger).edits}
    assert view["e2"].norm == here["e2"]["norms"]["update"]
    assert view["e2"].time.endswith(", recomputed by event 3") and view["e0"].time == ledger.events[0].time
    ledger.remove(["1/*"], model=model)
    (entry,) = (entry for entry in ledger.edits if entry.name == "e3")
    assert dict(entry_lines(ledger, entry))["computed"] == "on the unedited model"
    for _ in range(3):
        ledger.undo()
    assert ledger.recomputed == {} and {entry.name: entry.record for entry in ledger.edits} == old


@pytest.mark.slow
def test_make_in_two_steps_equals_one_sequence(tmp_path: Path) -> None:
    """Two steps, the second on the model with the first, or one sequence: the same patch."""
    model, edits = tiny("gpt2"), edits_of(4)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(on_tiny("rome", model), edits[:2], force=True)
    ledger.make(on_tiny("rome", model), edits[2:], force=True)
    assert same(ledger.patch, on_tiny("rome", model).edit(edits))


@pytest.mark.slow
def test_remove_needs_the_graph_of_the_edits(tmp_path: Path) -> None:
    model = tiny("llama")
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(on_tiny("glame", model, graph=graph()).edit([EDIT, SECOND]))
    ledger.remove([EDIT.id], model=model, graph=graph())
    assert same(ledger.patch, on_tiny("glame", model, graph=graph()).edit([SECOND]))


@pytest.mark.slow
def test_remove_retrains_a_network_with_warm_start(tmp_path: Path) -> None:
    model, last = tiny("llama"), SECOND.model_copy(update={"id": "last"})
    warm = partial(on_tiny, "glame", model, graph=graph(), warm_start=True)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(warm().edit([EDIT, SECOND, last]), force=True)
    ledger.remove([SECOND.id], model=model, graph=graph())
    assert same(ledger.patch, warm().edit([EDIT, last]))


@pytest.mark.slow
def test_remove_restores_a_fact_withheld_by_memprompt(tmp_path: Path) -> None:
    """MemPrompt withholds the second edit, which the model predicts after the first; without the first it is needed."""
    model = tiny("llama")
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(on_tiny("ft-m", model, steps=60, learning_rate=0.05), [EDIT], force=True)
    with ledger.patch.applied(model) as edited:
        answer = ask(edited, EDIT.text, tokens=24).split()[0]
    second = EDIT.model_copy(update={"id": "second", "target_new": answer})
    ledger.make(on_tiny("memprompt", model, feedback="mistakes"), [second], force=True)
    assert ledger.patches[2].edits[0]["withheld"]
    ledger.remove([EDIT.id], model=model)
    assert not ledger.patches[2].edits[0]["withheld"]


@pytest.mark.parametrize("name", keep_first(["glame", "glame-plus", "rome-kg"], keep=1))
def test_remove_refuses_another_graph(name: str, tmp_path: Path) -> None:
    """One statement more, and the edit that is left would be another one."""
    model, other = tiny("llama"), graph()
    other.add_edge("Q2", "Q4", label="twin city")
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(on_tiny(name, model, graph=graph()).edit([EDIT, SECOND]))
    before = ledger.patch
    with pytest.raises(PatchError, match="graph"):
        ledger.remove([EDIT.id], model=model, graph=other)
    assert same(ledger.patch, before) and len(ledger.events) == 1


def test_remove_refuses_a_model_in_another_dtype(tmp_path: Path) -> None:
    model, edits = tiny("llama"), edits_of(2)
    patch = on_tiny("rome", model).edit(edits)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(patch, force=True)
    cast = deepcopy(model.model)
    torch.nn.Module.to(cast, torch.bfloat16)
    half = LanguageModel.wrap(cast, model.tokenizer, name="half")
    assert half.fingerprint == patch.fingerprint, "it survives a cast"
    with pytest.raises(PatchMismatchError, match=r"in float32, .* in bfloat16.*--dtype float32"):
        ledger.remove(["e0"], model=half)
    assert len(ledger.events) == 1
    ledger.remove(["e1"], model=half)  # a column of its own, so nothing is recomputed


@pytest.mark.slow
def test_remove_refuses_other_contexts_and_models(tmp_path: Path) -> None:
    """Contexts given by hand are in no setting, so the same settings would not give the same edits."""
    model, edits = tiny("llama"), edits_of(2)
    editor = on_tiny("rome", model)
    editor._given_contexts = ("{}", "Hello. {}")  # type: ignore[attr-defined]
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(editor.edit(edits), force=True)
    before = ledger.patch
    with pytest.raises(PatchError, match="contexts"):
        ledger.remove(["e0"], model=model)
    with pytest.raises(PatchMismatchError):
        ledger.remove(["e0"], model=tiny("qwen2"))
    assert same(ledger.patch, before) and len(ledger.events) == 1
    ledger.remove(["e0", "e1"])
    assert ledger.patch.is_empty


def test_edits_of_two_settings_are_removed_together_only(tmp_path: Path) -> None:
    model, edits = tiny("llama"), edits_of(2)
    mixed: Patch = on_tiny("rome", model).edit(edits[:1]) + on_tiny("rome", model, steps=3).edit(edits[1:])
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(mixed)
    ledger.remove(["1/*"])
    assert ledger.patch.is_empty


def test_failed_make_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, edits = tiny("llama"), edits_of(2)
    ledger = Ledger.open(tmp_path / "ledger")
    editor = on_tiny("rome", model)
    monkeypatch.setattr(editor, "make", lambda *_, **__: (_ for _ in ()).throw(PatchError("no")))
    with pytest.raises(PatchError, match="no"):
        ledger.make(editor, edits)
    assert ledger.events == ()


def record(**fields: Any) -> dict[str, Any]:
    return {"edit": {"id": "heat"}, **fields}


HASHED = record(graph={"content_hash": "a", "source": {"kind": "cache", "fetched_at": ["1", "2"]}}, nodes=3, edges=2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (HASHED, {**HASHED, "graph": {"content_hash": "a", "source": {"kind": "online", "fetched_at": ["3"]}}}),
        (record(graph={"kind": "mine", "sizes": [1, 2]}), record(graph={"kind": "mine", "sizes": (1, 2)})),
        (record(graph={"fetched_at": "1"}), record(graph={"fetched_at": "2", "urls": ["u"]})),
        (record(norms={"change": 1.0}), record(norms={"change": 2.0})),
    ],
)
def test_check_same_graph_ignores_the_place_of_the_graph(old: dict[str, Any], new: dict[str, Any]) -> None:
    check_same_graph([old], [new])
