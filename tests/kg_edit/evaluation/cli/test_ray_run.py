"""A run on a local Ray cluster is the run of one process, also where a worker is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kg_edit.errors import ConfigError
from kg_edit.evaluation.cli.evaluation import EvaluateOptions
from kg_edit.evaluation.cli.ray_run import evaluate_on_ray
from kg_edit.evaluation.config import EvalConfig
from tests.kg_edit.command_line import QUICK, Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.evaluation.conftest import CITIES
from tests.kg_edit.evaluation.killed import results_of
from tests.kg_edit.evaluation.test_cli_runs import row

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures
ROOT = Path(__file__).resolve().parents[4]

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'kg-edit[ray]'"
)


@pytest.fixture
def options(place: Path, tiny_folder: Path) -> dict[str, Any]:
    (place / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:9])]))
    settings = [value for value in QUICK if value != "--set"]
    return {
        "data": str(place / "data.json"),
        "dataset": "counterfact-plus",
        "method": "rome",
        "model": str(tiny_folder),
        "settings": ["steps=5", *settings],
        "config": {"schedule": "batch:1,sequential:2"},
        "device": "cpu",
    }


def evaluation(options: dict[str, Any]) -> EvaluateOptions:
    return EvaluateOptions(**{**options, "data": Path(options["data"]), "config": EvalConfig(**options["config"])})


def evaluate_apart(options: dict[str, Any], place: Path, out: str, *, way: str) -> str:
    """Evaluate in a process of its own (`on_ray`), whose answers no fixture shortens; return what it prints."""
    command = [sys.executable, "-m", "tests.kg_edit.evaluation.cli.on_ray", json.dumps(options), str(place / out), way]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@needs_ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kill", ["kill", "leave"])
def test_two_workers_one_of_them_killed_under_way(kill: str, options: dict[str, Any], place: Path) -> None:
    evaluate_apart(options, place, "whole", way="alone")
    printed = evaluate_apart(options, place, "out", way=kill)
    assert int(printed.split()[-1]) == (3 if kill == "kill" else 2)
    out, whole = results_of(place / "out"), results_of(place / "whole")
    assert out == whole


class InProcess:
    """The part of Ray that is used, in this process: tasks run when they are fetched; the first loses its worker."""

    class exceptions:  # noqa: N801 - Ray's name
        class RayActorError(Exception):
            pass

        class RayTaskError(Exception):
            pass

    def __init__(self) -> None:
        self.lost = self.killed = 0

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **_: int) -> Any:
        def task(method: Any) -> Any:
            return SimpleNamespace(remote=lambda *arguments: partial(method, *arguments))

        def hire(kind: Any) -> Any:
            def start(*arguments: Any) -> Any:
                worker = kind(*arguments)
                return SimpleNamespace(process=task(worker.process), score=task(worker.score))

            return SimpleNamespace(remote=start)

        return hire

    def wait(self, tasks: list[Any], *, num_returns: int) -> Any:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, work: Any) -> Any:
        if work.args and not self.lost:
            self.lost += 1
            raise self.exceptions.RayActorError("the worker died")
        return work()

    def kill(self, _: Any) -> None:
        self.killed += 1


@pytest.mark.slow
def test_shards_of_lost_and_other_workers_are_merged(
    options: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation(options).run(place / "whole")
    ray, workers = InProcess(), list[int]()
    monkeypatch.setitem(sys.modules, "ray", ray)
    evaluate_on_ray(evaluation(options), place / "out", started=workers.append)
    assert results_of(place / "out") == results_of(place / "whole")
    assert (len(workers), ray.lost, ray.killed) == (3, 1, 0)
    assert "the worker of shard 0/5 was lost; another worker continues the shard" in caplog.text


def test_without_ray_the_extra_is_named(options: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'kg-edit\[ray\]'"):
        evaluate_on_ray(evaluation(options), place / "out")


def test_ray_deals_out_its_own_shards(kg_edit: Run) -> None:
    result = kg_edit("evaluate", "--data", "data.json", "--out", "out", "--ray", "--shard", "0/2")
    assert (result.code, "remove --shard" in result.err) == (2, True)
