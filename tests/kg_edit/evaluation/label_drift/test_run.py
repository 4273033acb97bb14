"""Label drift on made records in SCOTUS's form: mistakes are edited, and what is retained of old texts is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kg_common.progress import Bar
from kg_edit.cli.app import app
from kg_edit.errors import OutputError
from kg_edit.evaluation.cli import drift as command
from kg_edit.evaluation.label_drift import classifier as classifiers
from kg_edit.evaluation.label_drift import run
from kg_edit.evaluation.label_drift.classifier import ClassifierModel, train_classifier
from kg_edit.evaluation.label_drift.run import EDITORS, DriftPoint, run_drift, shorten
from kg_edit.evaluation.label_drift.texts import LabelDrift, read_label_drift, read_texts
from kg_edit.methods import find_method
from kg_edit.methods.fine_tuning.ft import FtM
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.tiny import tiny

TEAMS = ("Lakers", "Heat")
# Before 2000 a text belongs to its team; from then on two of the Lakers' texts belong to the other one
ROWS: list[dict[str, Any]] = [
    {"text": f"{name} plays for the {team}.", "label": label, "year": year}
    for name, year in (("LeBron", 1990), ("Wade", 1991), ("Hughes", 1992), ("Spike", 1993))
    for label, team in enumerate(TEAMS)
] + [
    {"text": "LeBron plays for the Lakers.", "label": 1, "year": 2003},
    {"text": "Wade plays for the Heat.", "label": 1, "year": 2001},
    {"text": "Hughes plays for the Lakers.", "label": 1, "year": 2002},
]
QUICK: dict[str, dict[str, Any]] = {
    "grace": {"layer": 1, "steps": 20},
    "ft-m": {"layer": 1, "steps": 10, "learning_rate": 0.01},
    "lora": {"steps": 6, "rank": 2, "learning_rate": 0.02},
    "adalora": {"steps": 6, "rank": 2, "initial_rank": 3, "warm_up": 1, "final": 0, "learning_rate": 0.1},
    "ft-l": {"layer": 1, "steps": 10, "learning_rate": 0.01},
    "memory": {"layer": 1, "steps": 20, "learning_rate": 0.05},
    "defer": {"layer": 1, "steps": 20, "learning_rate": 0.05, "texts": 4, "shut": 20.0},
}


def written(folder: Path, rows: object = ROWS, name: str = "cases.json") -> Path:
    file = folder / name
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def classifier(drift: LabelDrift) -> ClassifierModel:
    texts = [text.prompt for text in drift.train]
    return train_classifier(tiny("llama"), texts, [text.label for text in drift.train])


def points(name: str, drift: LabelDrift, out: Path, **settings: Any) -> list[DriftPoint]:
    model, chosen = classifier(drift), find_method(name)
    config = chosen.config_class.preset("default", {**QUICK[name], **settings}, method=name)
    return list(run_drift(model, chosen(model, config), drift, out=out / name, every=1))


def test_every_editor_has_quick_settings_here() -> None:
    assert set(QUICK) == set(EDITORS)


def test_texts_are_split_by_year(tmp_path: Path) -> None:
    drift = read_label_drift(written(tmp_path), since=2000)
    assert [text.year for text in drift.stream] == [2001, 2002, 2003], "in the order of time"
    assert [text.id for text in drift.test] == ["row-4", "row-8"] and len(drift.train) == 6
    assert {text.label for text in drift.train} == {"0", "1"}
    edit = drift.stream[1].edit
    assert (edit.text, edit.target_new) == ("Text: Hughes plays for the Lakers.\nClass:", "1")


def test_published_form_has_two_parts(tmp_path: Path) -> None:
    """Rows of text and label alone, as tomh/grace-scotus has them; a stream without years remains in its order."""
    plain = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    old, new = written(tmp_path, plain[:8], "train.json"), written(tmp_path, plain[8:], "test.json")
    drift = read_label_drift(old, new)
    assert [text.text[:5] for text in drift.stream] == ["LeBro", "Wade ", "Hughe"] and len(drift.test) == 2


def test_only_mistakes_are_edited_and_retained(tmp_path: Path) -> None:
    """The text of the Heat is labelled as before; those of the Lakers are not. GRACE leaves all other texts alone."""
    drift = read_label_drift(written(tmp_path), since=2000)
    first, *_, last = points("grace", drift, tmp_path)
    assert (first.seen, first.edits, first.ERR) == (0, 0, None) and first.TRR == 1.0 and first.ARR == 1.0
    assert (last.seen, last.edits, last.failed) == (3, 2, 0)
    assert (last.ERR, last.TRR, last.ARR) == (1.0, 1.0, 1.0)


def test_classifier_that_an_edit_broke_counts_as_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is finite, and the output with it is not."""
    drift = read_label_drift(written(tmp_path), since=2000)

    def huge(method: FtM, edits: object, *, before: object = None) -> WeightPatch:
        weight = method.model.down_projection(1).weight
        return WeightPatch(factors={method.model.weight_name(1): Factors.dense(torch.full_like(weight, 1e38))})

    monkeypatch.setattr(FtM, "edit", huge)
    first, *_, last = points("ft-m", drift, tmp_path)
    assert first.TRR == 1.0 and (last.edits, last.TRR, last.ERR, last.ARR) == (2, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "name", [name if name == "ft-m" else pytest.param(name, marks=pytest.mark.slow) for name in QUICK]
)
def test_every_method_that_is_offered_edits_a_classifier(name: str, tmp_path: Path) -> None:
    drift = read_label_drift(written(tmp_path), since=2000)
    last = points(name, drift, tmp_path)[-1]
    assert last.edits >= 1 and last.failed == 0 and last.ERR is not None and last.ERR > 0


def test_long_texts_are_cut(tmp_path: Path) -> None:
    (text, *_) = read_texts(written(tmp_path))
    texts = LabelDrift(train=(text,), test=(), stream=())
    ((cut,), _, _) = shorten(tiny("llama"), texts, tokens=4)
    assert text.text.startswith(cut.text) and len(tiny("llama").tokenizer(cut.text)["input_ids"]) <= 4
    assert shorten(tiny("llama"), texts, tokens=100) == texts


def test_stopped_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after its first edit, and with a line cut off: no text is edited twice, and the points are the same."""
    drift = read_label_drift(written(tmp_path), since=2000)
    expected = points("ft-m", drift, tmp_path / "whole")
    updated = list[str]()
    update = FtM.edit

    def counted(self: Any, edits: Any, *, before: Any = None) -> Any:
        if len(updated) == 1:
            raise KeyboardInterrupt
        updated.append(edits[0].id)
        return update(self, edits, before=before)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FtM, "edit", counted)
        points("ft-m", drift, tmp_path / "stopped")
    folder = tmp_path / "stopped" / "ft-m"
    with (folder / "texts.jsonl").open("a") as file:
        file.write('{"id": "row-')
    bars = list[Bar]()
    with monkeypatch.context() as patched:
        patched.setattr(run, "Bar", lambda *items, **options: bars.append(Bar(*items, **options)) or bars[-1])
        resumed = points("ft-m", drift, tmp_path / "stopped")
    assert (bars[-1].initial, bars[-1].n) == (2, 3), "the time that is left is that of the texts of this run"
    assert [point.model_dump(exclude={"seconds"}) for point in resumed] == [
        point.model_dump(exclude={"seconds"}) for point in expected
    ]
    edited = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    assert [text["outcome"] for text in edited].count("edited") == resumed[-1].edits == 2
    assert len(list((folder / "patches").iterdir())) == 2
    with pytest.raises(OutputError, match="another run"):
        points("ft-m", drift, tmp_path / "stopped", steps=11)

    # A line that is deleted would give each later text the outcome of the next one.
    second, third = (text.id for text in drift.stream[1:])
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in (edited[0], edited[2])))
    with pytest.raises(OutputError, match=f"line 2: found the text {third!r}, expected {second!r}; delete this line"):
        points("ft-m", drift, tmp_path / "stopped")
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in edited))
    (folder / "patches" / "00002.safetensors").unlink()
    last = max(line for line, text in enumerate(edited, 1) if text["outcome"] == "edited")
    message = rf"texts.jsonl, line {last}: the patch of this edit can't be read \(.*00002.safetensors.*\); delete this"
    with pytest.raises(OutputError, match=message):
        points("ft-m", drift, tmp_path / "stopped")
    (folder / "texts.jsonl").write_text(json.dumps(edited[0]) + "\n")
    assert points("ft-m", drift, tmp_path / "stopped") == resumed


@pytest.mark.parametrize("older", [3, 4])
def test_too_few_older_texts_give_a_warning(older: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drift = read_label_drift(written(tmp_path, [*ROWS[:older], *ROWS[8:]]), since=2000)
    message = "TRR is not measured: a test needs at least 4 older texts, found 3"
    assert (len(drift.test), caplog.messages) == ((1, []) if older == 4 else (0, [message]))


@pytest.mark.slow
def test_drift_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_model", lambda *_: tiny("llama"))
    out, file = tmp_path / "drift", written(tmp_path)
    arguments = ["drift", "--data", str(file), "--since", "2000", "--out", str(out), "--set", "layer=1"]
    result = CliRunner().invoke(app, [*arguments, "--set", "steps=20"], catch_exceptions=False)
    assert result.exit_code == 0 and "3 texts, 2 edits: TRR 1.00  ERR 1.00  ARR 1.00" in result.output
    lines = [json.loads(line) for line in (out / "points.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["seen"] for line in lines] == [0, 3] and lines[-1]["ERR"] == 1.0
    with monkeypatch.context() as patched:
        patched.setattr(classifiers, "train_classifier", lambda *_: pytest.fail("the older texts are read once"))
        resumed = CliRunner().invoke(app, [*arguments, "--set", "steps=20"], catch_exceptions=False)
        assert resumed.output == result.output
        with pytest.raises(OutputError, match="another run"):
            CliRunner().invoke(app, [*arguments, "--set", "steps=21"], catch_exceptions=False)
    again = CliRunner().invoke(app, [*arguments, "--set", "steps=21", "--overwrite"], catch_exceptions=False)
    assert again.exit_code == 0 and "3 texts, 2 edits" in again.output


def test_white_space_around_a_text_changes_nothing(tmp_path: Path) -> None:
    """The edit's prompt is what the classifier reads; an edit's subject has no white space at its ends."""
    (text,) = read_texts(written(tmp_path, [{"text": "\n\n Spike plays for the Heat. ", "label": 1}]))
    assert text.edit.text == text.prompt and not text.text[0].isspace() and not text.text[-1].isspace()
