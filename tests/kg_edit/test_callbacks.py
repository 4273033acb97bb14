"""Losses are seen while they fall, edit by edit, and what is computed stays the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kg_edit.callbacks import Callback, LossLines, StepNotes, open_callback, read_losses
from kg_edit.errors import ConfigError, UnknownNameError
from kg_edit.methods.rome.method import RomeConfig
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.ship.ledger.ledgers import edits_of, same
from tests.kg_edit.tiny import tiny


class Seen(Callback):
    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[int, float]]] = {}

    def on_step(self, edit: str, step: int, loss: float) -> None:
        self.steps.setdefault(edit, []).append((step, loss))


@pytest.mark.parametrize("name", keep_first(["rome", "memit", "ft-l", "locft"]))
def test_callback_gets_every_step_of_every_edit(name: str, tmp_path: Path) -> None:
    model, edits, seen = tiny("llama"), edits_of(2), Seen()
    editor = on_tiny(name, model)
    losses = tmp_path / "losses.jsonl"
    patch = editor.edit(edits, callbacks=[seen, open_callback(f"file:{losses}")])
    assert set(seen.steps) == {edit.id for edit in edits}
    for record in patch.edits:
        steps = seen.steps[record["edit"]["id"]]
        assert [step for step, _ in steps] == list(range(record["steps"]))
        assert steps[0][1] == pytest.approx(record["loss_before"], abs=1e-5)
        assert steps[-1][1] == pytest.approx(record["loss_after"], abs=1e-5)
    lines = [json.loads(line) for line in losses.read_text().splitlines()]
    assert [(line["edit"], line["step"]) for line in lines if line["edit"] == "e0"] == [
        ("e0", step) for step, _ in seen.steps["e0"]
    ]
    assert isinstance(patch, WeightPatch) and same(patch, editor.edit(edits)), "watching changes nothing"


def test_loss_file_has_the_terms_of_each_loss(tmp_path: Path) -> None:
    editor, losses = on_tiny("rome", tiny("llama")), tmp_path / "losses.jsonl"
    (record,) = editor.edit(edits_of(1), callbacks=[open_callback(f"file:{losses}")]).edits
    curve = read_losses(losses)[record["edit"]["id"]]
    assert (curve[0].nll, curve[-1].nll) == (record["nll_before"], record["nll_after"])
    assert curve[-1].kl == record["kl_after"]


def test_last_descent_of_an_edit_is_read(tmp_path: Path) -> None:
    file, lines = tmp_path / "losses.jsonl", LossLines()
    for edit, step, loss in (("a", 0, 3.0), ("a", 1, 2.0), ("b", 0, 5.0), ("a", 0, 3.5), ("b", 1, float("nan"))):
        lines.on_step(edit, step, loss)
    lines.append_to(file)
    with file.open("a") as half:
        half.write('{"edit": "a", "st')  # a kill interrupted it
    curves = read_losses(file)
    assert [(step.step, step.loss) for step in curves["a"]] == [(0, 3.5)]
    assert [step.step for step in curves["b"]] == [0, 1] and curves["b"][1].loss != curves["b"][1].loss
    assert read_losses(tmp_path / "none.jsonl") == {}


def test_wandb_and_tensorboard_get_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Run:
        def log(self, values: dict[str, float]) -> None:
            calls.append(values)

        def finish(self) -> None:
            calls.append("finished")

    class Writer:
        def __init__(self, folder: str) -> None:
            calls.append(folder)

        def add_scalar(self, name: str, loss: float, step: int) -> None:
            calls.append((name, loss, step))

        def close(self) -> None:
            calls.append("closed")

    wandb, board = ModuleType("wandb"), ModuleType("torch.utils.tensorboard")
    wandb.init = lambda project: calls.append(project) or Run()  # type: ignore[attr-defined]
    board.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    for text in ("wandb:mine", "tensorboard:runs"):
        callback = open_callback(text)
        callback.on_step("e1", 3, 0.5)
        callback.close()
    assert calls == [
        *("mine", {"loss/e1": 0.5, "step/e1": 3}, "finished"),
        *("runs", ("loss/e1", 0.5, 3), "closed"),
    ]


def test_unusable_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        open_callback("wandb:mine")
    with pytest.raises(ConfigError, match="no destination"):
        open_callback("tensorboard")
    with pytest.raises(UnknownNameError, match="did you mean 'wandb'"):
        open_callback("wandbb:mine")


def test_progress_has_the_limits_of_a_descent_and_the_time_that_is_left() -> None:
    """A method of further steps goes beyond ``steps``, which looked like a mistake."""
    seen = list[str]()
    notes = StepNotes(seen.append, most=RomeConfig(steps=5, further_steps=28).most_steps)
    for step in (0, 1, 32):
        notes.on_step("1", step, 2.0)
    first, second, last = seen
    assert first == "step 1 of 5 and 28 further ones, loss 2.00"
    assert "left in this descent" in second and "left" not in last
    assert RomeConfig(steps=5, further_steps=0).most_steps == (5, 0)
