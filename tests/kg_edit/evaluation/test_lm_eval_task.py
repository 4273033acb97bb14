"""Benchmarks in the lm-evaluation-harness: the scores of its tasks are those of `kg-edit evaluate`."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.lm_eval_model import lm_eval_model
from kg_edit.evaluation.records import items
from kg_edit.evaluation.scorer import score_cases
from kg_edit.evaluation.task_folder import TaskSettings, write_task
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.questions import answers
from kg_edit.ship.export.merged_model import write_merged
from tests.kg_edit.evaluation.conftest import Nudge
from tests.kg_edit.evaluation.datasets.rows import RIPPLE, ZSRE, written
from tests.pages import DocPage

RECORDS = 20
RIPPLES = "ripples-smollm2-135m"
FILES = {
    "counterfact-plus": "counterfact_plus/dev.json",
    "zsre": "zsre/zsre_mend_eval_portability_gpt4.json",
    "mquake": "mquake/MQuAKE-CF-3k.dev.json",
}
needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'kg-edit[lm-eval]'"
)


def ours(model: LanguageModel, records: Sequence[BenchmarkRecord], pool: Sequence[BenchmarkRecord]) -> dict[str, float]:
    """The mean of every metric over the records that have it, as a run's summary has it."""
    cases = [item.case for item in items(records, answers(pool), EvalConfig(chat=False))]
    sections = score_cases(model, cases)
    names = {name: None for section in sections for name in section.scores}
    scores = {name: [section.scores.get(name) for section in sections] for name in names}
    present = {name: [value for value in values if value is not None] for name, values in scores.items()}
    return {name: fmean(values) for name, values in present.items() if values}


def means(results: dict[str, Any]) -> dict[str, float]:
    """The harness's metrics without its standard errors."""
    return {
        name.removesuffix(",none"): value
        for name, value in results.items()
        if name.endswith(",none") and "_stderr" not in name
    }


def harness(model: LanguageModel, patch: Patch, folder: Path, task: str, rows: list[int]) -> dict[str, float]:
    """What the harness finds of these rows with the patch in the model."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(folder), include_defaults=False, metadata={"tokenizer": model.name})
    with lm_eval_model(model, patch, batch_size=16) as edited:
        output: Any = lm_eval.simple_evaluate(
            model=edited, tasks=[task], task_manager=tasks, samples={task: rows}, bootstrap_iters=0
        )
    return means(output["results"][task])


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*FILES, "ripples"])
def test_twenty_real_records_have_our_scores(
    name: str, smollm2: LanguageModel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Edited together by a few steps of fine-tuning, so that some of the scores are neither 0 nor 1."""
    data = RIPPLES if name == "ripples" else str(request.getfixturevalue("shared") / FILES[name])
    settings = TaskSettings(dataset=name, data=data, split="dev" if name == "ripples" else None, keep_going=True)
    records = settings.records()
    short = sorted(range(len(records)), key=lambda row: len(records[row].probes))[:RECORDS]
    rows = sorted(short) if name == "ripples" else list(range(RECORDS))
    chosen = [records[row] for row in rows]
    edits = {(edit.text): edit for record in chosen for edit in record.edits}
    patch = find_method("locft").on(smollm2, settings={"steps": 6}).edit(list(edits.values()))
    write_task(tmp_path / "tasks", settings, name="ours")
    with patch.applied(smollm2) as edited:
        expected = ours(edited, chosen, records)
    scores = harness(smollm2, patch, tmp_path / "tasks", "ours", rows)
    assert scores == pytest.approx(expected, abs=2e-3)
    assert len([value for value in expected.values() if value not in (0, 1)]) >= 2


@needs_lm_eval
@pytest.mark.slow
def test_task_for_a_model_in_memory(model: LanguageModel, method: Nudge, tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from kg_edit.evaluation.lm_eval_task import BenchmarkTask

    task = BenchmarkTask.of(TaskSettings(dataset="zsre", data=str(written(tmp_path, ZSRE))), tokenizer=model.tokenizer)
    (record,) = TaskSettings(dataset="zsre", data=str(tmp_path / "records.json")).records()
    patch, tasks = method.update(record.edits), TaskManager(include_defaults=False)
    with lm_eval_model(model, patch) as edited:
        output: Any = lm_eval.simple_evaluate(model=edited, tasks=[task], task_manager=tasks, bootstrap_iters=0)
        with pytest.raises(ConfigError, match="in plain text"):
            lm_eval.simple_evaluate(model=edited, tasks=[task], task_manager=tasks, apply_chat_template=True)
    with patch.applied(model) as patched:
        assert means(output["results"][task.task_name]) == pytest.approx(ours(patched, [record], [record]), abs=1e-3)


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_commands_of_the_documentation(model: LanguageModel, method: Nudge, tmp_path: Path) -> None:
    """The last two of docs/runs.md unchanged, on a folder with the edited model, without a network."""
    settings = TaskSettings(dataset="zsre", data=str(written(tmp_path, ZSRE).rename(tmp_path / "zsre.json")))
    (record,) = settings.records()
    patch = method.update(record.edits)
    write_merged(patch, model, tmp_path / "merged")
    (*_, write, ask) = DocPage("docs/runs.md").commands()
    assert (write.split()[:3], ask.split()[0]) == (["kg-edit", "data", "tasks"], "lm_eval")
    run(write.replace("kg-edit", "kg_edit", 1), tmp_path)
    shown = run(ask, tmp_path)
    with patch.applied(model) as edited:
        expected = ours(edited, [record], [record])
    table = {cells[5]: float(cells[7]) for line in shown.splitlines() if (cells := _cells(line))}
    assert table == pytest.approx(expected, abs=1e-3, rel=1e-3)  # lm-eval prints four digits


def run(command: str, folder: Path) -> str:
    """The output of a command of a module, in a folder."""
    process = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def _cells(line: str) -> list[str]:
    cells = [cell.strip() for cell in line.split("|")]
    return cells if len(cells) > 8 and cells[8] == "±" else []


def test_task_is_a_file_that_names_its_data(tmp_path: Path) -> None:
    settings = TaskSettings(dataset="ripples", data=RIPPLES, split="test")
    assert write_task(tmp_path, settings) == tmp_path / "kg_edit_ripples_test.yaml"
    assert write_task(tmp_path, settings, name="mine").read_text() == (
        "task: mine\nclass: !function kg_edit_task.BenchmarkTask\nmetadata:\n  kg_edit:\n"
        f'    dataset: "ripples"\n    data: "{RIPPLES}"\n    split: "test"\n'
    )
    with pytest.raises(ConfigError, match="can't be a task's name"):
        write_task(tmp_path, settings, name="../mine")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "kg_edit_ripples_test.yaml",
        "kg_edit_task.py",
        "mine.yaml",
    ]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "expected the fields dataset and data in metadata, kg_edit"),
        ({"kg_edit": "zsre"}, "expected the fields dataset and data in metadata, kg_edit"),
        ({"kg_edit": {"dataset": "zsre"}}, "metadata, kg_edit: field data: is missing"),
        (
            {"kg_edit": {"dataset": "zsre", "data": "x", "spilt": "a"}},
            "metadata, kg_edit: field spilt: unknown field, did you mean",
        ),
    ],
)
def test_changed_file_of_a_task_is_named(metadata: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"zsre.yaml: {message}.*; write the file again with `kg-edit data tasks`"):
        TaskSettings.of_task({"task": "zsre", "metadata": metadata})


def test_data_set_that_needs_the_unedited_model_is_refused(tmp_path: Path) -> None:
    settings = TaskSettings(dataset="ripple-edits", data=str(written(tmp_path, RIPPLE)))
    with pytest.raises(ConfigError, match="the harness only has the edited model"):
        settings.records()
