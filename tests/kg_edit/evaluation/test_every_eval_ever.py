"""The results of a run as Every Eval Ever has them, against that project's published schema.

``tests/data/every_eval_ever.schema.json`` is eval.schema.json of every-eval-ever 0.3.0 (EvalEval, MIT licence).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kg_edit.cli.app import main
from kg_edit.edits.edit import Edit
from kg_edit.errors import OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.every_eval_ever import export_results
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.summary import Summary
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.evaluation.conftest import Nudge
from tests.pages import ROOT

SCHEMA = json.loads((ROOT / "tests" / "data" / "every_eval_ever.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def run(method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> Path:
    """Two edits in a sequence."""
    evaluate(method, model, edits[:2], out=tmp_path / "run", config=EvalConfig(schedule="sequential:2"))
    return tmp_path / "run"


def read(file: Path) -> dict[str, Any]:
    """A file, after a comparison with the schema."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    jsonschema.validate(content, SCHEMA)
    return content


@pytest.mark.slow
def test_each_model_of_a_run_is_a_file_of_the_schema(run: Path, tmp_path: Path) -> None:
    files = export_results(run, tmp_path / "out", organization="A lab", url="https://lab.example")
    logs = {file.stem: read(file) for file in files}
    assert list(logs) == ["unedited", "just_edited", "edited"]
    assert len({log["evaluation_id"] for log in logs.values()}) == 3
    summary = Summary.load(run)
    for name, estimates in (("unedited", summary.base), ("edited", summary.edited)):
        results = {result["evaluation_name"]: result for result in logs[name]["evaluation_results"]}
        assert results.keys() == {metric for metric, estimate in estimates.items() if estimate.mean is not None}
        score = results["efficacy.prob"]["score_details"]
        assert score["score"] == estimates["efficacy.prob"].mean and score["uncertainty"]["num_samples"] == 2
        assert results["efficacy.nll"]["metric_config"]["lower_is_better"]
        assert results["efficacy.nll"]["metric_config"]["max_score"] == "Infinity"
    details = logs["edited"]["model_info"]["additional_details"]
    assert details["method"] == "nudge" and details["edited"] == "true"
    assert "method" not in logs["unedited"]["model_info"]["additional_details"]


@pytest.mark.slow
def test_command_writes_the_files_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["kg-edit", "export-results", str(run), "--organization", "A lab", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*command, "--format", "every-eval-ever"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code and "edited.json" in capsys.readouterr().out
    with pytest.raises(OutputError, match="already exists"):
        export_results(run, tmp_path / "out", organization="A lab")
    with pytest.raises(OutputError, match="finished run"):
        export_results(tmp_path, tmp_path / "other", organization="A lab")
    assert not (tmp_path / "other").exists()
