"""A run that is killed outright, in its own process, goes on to the same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kg_edit.command_line import EDITS, QUICK, cache, place, tiny_folder

pytestmark = pytest.mark.slow

__all__ = ["cache", "place", "tiny_folder"]  # fixtures
FILES = ("patch.safetensors", "records.jsonl", "report.md")


def start(place: Path, model: Path, out: str) -> subprocess.Popen[bytes]:
    command = ["edit", "many.jsonl", "--method", "rome", "--model", model, "--set", "steps=60", "--out", out, *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KG_OFFLINE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command.append("--force")  # so many steps make changes that a random model would be spared
    return subprocess.Popen([sys.executable, "-m", "kg_edit.cli.app", *command], cwd=place, env=environment, **quiet)


def test_kill_9(place: Path, tiny_folder: Path) -> None:
    first = EDITS.splitlines()[0]
    rows = [first.replace('"lebron"', f'"{n}"').replace("Los Angeles Lakers", f"Team {n}") for n in range(12)]
    rows = [row.replace("LeBron James", f"LeBron James {n}") for n, row in enumerate(rows)]
    (place / "many.jsonl").write_text("\n".join(rows) + "\n")
    assert start(place, tiny_folder, "whole").wait(timeout=120) == 0

    killed = start(place, tiny_folder, "part")
    partial = place / "part" / "patch.partial.safetensors"
    until = time.monotonic() + 60
    while not partial.exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    if killed.wait(timeout=30) == 0:
        pytest.fail("the run ended before it could be killed; give it more to do")
    assert partial.exists()
    assert not (place / "part" / "patch.safetensors").exists()

    assert start(place, tiny_folder, "part").wait(timeout=120) == 0
    for name in FILES:
        assert (place / "part" / name).read_bytes() == (place / "whole" / name).read_bytes(), name
    assert not partial.exists()
