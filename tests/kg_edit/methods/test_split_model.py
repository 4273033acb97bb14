"""A model that lies on two devices: every method edits it as it edits the same model on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kg_edit.split_model import EXACT, JOBS, SPLITS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Of all jobs, in one process, as the second device can't be taken back."""
    return run_jobs(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="module")
def exact_outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Of the methods that compute in float64, on a device that has none."""
    return run_jobs(tmp_path_factory.mktemp("exact"), "no-float64")


def run_jobs(folder: Path, *options: str) -> Outcomes:
    command = [sys.executable, "-m", "tests.kg_edit.split_model", str(folder / "report.jsonl"), *options]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KG_EDIT_CACHE": str(folder)}, capture_output=True, text=True, check=False
    )
    lines = (folder / "report.jsonl").read_text(encoding="utf-8").splitlines()
    assert run.returncode == 0, f"ended after {lines[-1:]}: {run.stderr[-3000:]}"
    return {line["job"]: line for line in map(json.loads, lines)}


def test_the_second_device_is_one(outcomes: Outcomes) -> None:
    assert "expected all tensors to be on the same device" in outcomes["mixing"]["error"]


def test_a_device_map_is_followed(outcomes: Outcomes) -> None:
    assert outcomes["loading"]["difference"] < 1e-4


def test_weights_offloaded_to_the_cpu_are_refused(outcomes: Outcomes) -> None:
    assert "give a device_map of devices whose memory holds the whole model" in outcomes["offloading"]["error"]


def test_adalora_says_that_it_needs_one_device(outcomes: Outcomes) -> None:
    for family, first in SPLITS:
        assert "PEFT's AdaLoRA needs a model on one device" in outcomes[f"adalora {family} {first}"]["error"]


@pytest.mark.parametrize("name", EXACT)
def test_a_method_needs_no_float64_on_the_models_device(name: str, exact_outcomes: Outcomes) -> None:
    assert "does not have it" in exact_outcomes["float64"]["error"]
    outcome = exact_outcomes[name]
    assert "error" not in outcome, outcome["error"]
    assert outcome["difference"] < 5e-4
    assert outcome["untouched"]


@pytest.mark.parametrize(("family", "first"), SPLITS)
@pytest.mark.parametrize("job", [job for job in JOBS if job != "adalora"])
def test_a_model_on_two_devices_is_edited_as_on_one(job: str, family: str, first: str, outcomes: Outcomes) -> None:
    outcome = outcomes[f"{job} {family} {first}"]
    if job == "ke" and first != "cpu":
        pytest.skip("torch's LSTM does not run on the simulated device, because its fused cell is not written for it")
    if job == "serac train" and first != "cpu":
        pytest.skip("torch can't differentiate its counterfactual model on the simulated device")
    assert "error" not in outcome, outcome["error"]
    assert outcome["difference"] < 1e-4
    assert outcome["untouched"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_model_on_a_card_is_edited_as_on_the_cpu(tmp_path: Path) -> None:
    outcomes = run_jobs(tmp_path, "cuda")
    # Adam divides a gradient that is nearly 0 by its own size: a statement that the model knows already
    del outcomes["memit-kg qwen3_5_text"]
    wrong = {job: outcome for job, outcome in outcomes.items() if not wanted(outcome)}
    assert len(outcomes) > len(JOBS) and not wrong


def wanted(outcome: dict[str, Any]) -> bool:
    """Whether the patch is that of the CPU, up to the order of sums, or the family is refused."""
    if "error" in outcome:
        return str(outcome["error"]).startswith("UnsupportedModelError")
    return bool(outcome["difference"] < 1e-2 and outcome["untouched"])
