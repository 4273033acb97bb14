"""`general_tasks.py` writes tasks that `kg-edit evaluate --general` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.evaluation.general_tasks import GeneralTasks
from tests.kg_edit.evaluation.datasets.rows import POPQA
from tests.pipelines.scripts import STUDIES, Script, module


def rows() -> list[dict[str, object]]:
    names = ("politician", "singer", "poet", "Painter", "king")
    return [
        {**POPQA, "id": n, "prop": "occupation", "obj": name, "possible_answers": json.dumps([name, "painter"])}
        for n, name in enumerate(names)
    ]


def test_the_right_object_stands_among_three_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    script = module("general_tasks")
    tasks = list(script.choices(rows(), seed=0))
    assert len(tasks) == 5 and tasks == list(script.choices(rows(), seed=0)) != list(script.choices(rows(), seed=1))
    for row, task in zip(rows(), tasks, strict=True):
        assert task["choices"][task["right"]] == row["obj"] and len(set(task["choices"])) == 4
        assert row["obj"] == "Painter" or "Painter" not in task["choices"], "an alias of the right answer"
    assert not list(script.choices(rows()[:3], seed=0)), "too few objects of the relation"


@pytest.mark.slow
def test_both_tasks_are_asked(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval (make test-all installs it)")
    monkeypatch.syspath_prepend(STUDIES)
    (tmp_path / "known.json").write_text(json.dumps([{"prompt": "Paris is in", "attribute": "France", "known_id": 0}]))
    (tmp_path / "popqa.json").write_text(json.dumps(rows()))
    command = ("general_tasks", "--known", "known.json", "--popqa", "popqa.json", "--out", "tasks")
    assert script(*command) == 0
    assert set(GeneralTasks.open(["tasks"]).names) == {"known_facts", "popqa_choice"}
