"""Evaluations that are killed outright at random moments resume to the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes, which this system can't")
@pytest.mark.timeout(1800)
def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    kills = 20
    command = [sys.executable, "-m", "tests.kg_edit.evaluation.killed", str(tmp_path), str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KG_OFFLINE": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    trials = [json.loads(line) for line in process.stdout.splitlines() if line]
    assert len(trials) == kills
    assert [trial for trial in trials if not trial["same"]] == []
    assert len({trial["lines"] for trial in trials}) > 5  # the moments did differ
