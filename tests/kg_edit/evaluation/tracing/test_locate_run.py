"""The job: a folder with every trace, gone on with after a kill; what fails is counted; and `kg-edit locate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kg_edit.errors import ConfigError, ModelError
from kg_edit.evaluation.cli.locate import _show
from kg_edit.evaluation.tracing import run as module
from kg_edit.evaluation.tracing.run import locate
from kg_edit.evaluation.tracing.trace import Trace, TracedFact, TraceSettings
from tests.kg_edit.command_line import Run, cache, content, kg_edit, place, tiny_folder
from tests.kg_edit.tiny import tiny

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

FACTS = (
    TracedFact(id="a", subject="LeBron James", prompt="{} plays for", answer="Miami Heat"),
    TracedFact(id="b", subject="France", prompt="In {}, the capital is"),
    TracedFact(id="c", subject="Spike Hughes", prompt="{} originates from", answer="London"),
)
SETTINGS = TraceSettings(samples=2)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 0, 40])
def test_locate_resumes_a_killed_run(tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first fact, with the second one's line half written; the result is the same, byte for byte."""
    model, traced = tiny("llama"), list[str]()
    original = module.trace
    locate(model, FACTS, SETTINGS, out=tmp_path / "whole", progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    lines = (tmp_path / "cut" / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut" / "records.jsonl").write_text(lines[0] + lines[1][:cut])

    def counted(model: object, fact: TracedFact, *args: object, **kwargs: object) -> Trace:
        traced.append(fact.id)
        return original(model, fact, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "trace", counted)
    locate(model, FACTS, SETTINGS, out=tmp_path / "cut", progress=False)
    assert traced == ["b", "c"]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.slow
def test_locate_counts_failed_facts_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, original = FACTS[1], module.trace

    def failing(model: object, fact: TracedFact, *args: object, **kwargs: object) -> Trace:
        if fact.id == broken.id:
            raise ModelError("not finite")
        return original(model, fact, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "trace", failing)
    summary = locate(tiny("llama"), FACTS, SETTINGS, out=tmp_path / "run", progress=False)
    assert (summary.facts, summary.failed) == (2, {"b": "ModelError: not finite"})
    with pytest.raises(ConfigError, match="none of 1 fact could be traced: ModelError: not finite"):
        locate(tiny("llama"), FACTS[1:2], SETTINGS, out=tmp_path / "none", progress=False)
    assert locate(tiny("llama"), FACTS[:1], SETTINGS, out=tmp_path / "none", progress=False).facts == 1


@pytest.mark.slow
def test_locate_counts_a_fact_without_answer_as_failed(tmp_path: Path) -> None:
    settings = TraceSettings(samples=2, answer="true")
    summary = locate(tiny("llama"), FACTS, settings, out=tmp_path / "run", progress=False)
    assert (summary.facts, list(summary.failed)) == (2, ["b"])
    assert summary.failed["b"].startswith("ConfigError: the fact 'In France, the capital is' has no answer to trace")


def test_locate_command_checks_the_folder_before_the_model(kg_edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[object]()
    monkeypatch.setattr("kg_edit.evaluation.cli.locate.load_model", lambda *model: loaded.append(model))
    result = kg_edit("locate", "edits.jsonl", "--out", "edits.jsonl")
    assert (result.code, "edits.jsonl is a file; give --out a folder" in result.err) == (2, True), result.err
    assert loaded == []


@pytest.mark.slow
def test_locate_without_any_answer_keeps_the_run_that_it_would_replace(
    kg_edit: Run, tiny_folder: Path, place: Path
) -> None:
    rows = [json.loads(line) for line in (place / "edits.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({name: value for name, value in row.items() if name != "target_true"}) for row in rows]
    (place / "edits.jsonl").write_text("\n".join(lines), encoding="utf-8")
    arguments = ("locate", "edits.jsonl", "--model", tiny_folder, "--samples", "1", "--limit", "1", "--out", "out")
    assert kg_edit(*arguments).code == 0
    before = content(place / "out")
    result = kg_edit(*arguments, "--answer", "true", "--overwrite")
    assert (result.code, "no fact has an answer to trace" in result.err) == (2, True), result.err
    assert content(place / "out") == before


@pytest.mark.slow
def test_locate_leaves_out_unknown_facts(tmp_path: Path) -> None:
    """A fact without an answer can't be unknown."""
    summary = locate(tiny("llama"), FACTS, SETTINGS, out=tmp_path / "run", known_only=True, progress=False)
    assert (summary.facts, summary.unknown) == (1, ("a", "c"))


@pytest.mark.slow
def test_no_layer_is_suggested_where_the_noise_does_not_lower_p(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = locate(tiny("llama"), FACTS, SETTINGS, out=tmp_path, progress=False)
    for corrupted, shown in ((0.1, "suggested layer: "), (0.3, "no layer is suggested: ")):
        _show(summary.model_copy(update={"clean": 0.2, "corrupted": corrupted}), tmp_path)
        assert f"\n{shown}" in capsys.readouterr().out


@pytest.mark.slow
def test_locate_command_writes_and_suggests_a_layer(kg_edit: Run, tiny_folder: Path, place: Path) -> None:
    result = kg_edit("locate", "edits.jsonl", "--model", tiny_folder, "--samples", "2", "--kind", "attention")
    assert result.code == 0, result.err
    assert "2 facts traced" in result.out
    assert "the suggestion comes from --kind mlp" in result.out
    assert (place / "locate" / "heatmap.svg").is_file()
    mlp = kg_edit("locate", "edits.jsonl", "--model", tiny_folder, "--samples", "2", "--out", "mlp", "--limit", "1")
    peak = json.loads((place / "mlp" / "summary.json").read_text())["peak"]["layer"]
    assert f"suggested layer: {peak}" in mlp.out
    assert "fewer than five facts" in mlp.out and "1 fact traced" in mlp.out
    assert "mlp: heatmap.svg, heatmap-00.svg, summary.json" in mlp.out
