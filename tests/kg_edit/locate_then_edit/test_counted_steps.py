"""A step of a descent on an accelerator waits for it once, and copies nothing to it; scores wait once a pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kg_edit.locate_then_edit.counted_steps import FAMILIES

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_step_waits_for_the_device_once_and_copies_nothing_there() -> None:
    """Also a further step, which checks whether the target is predicted; and C's factor stays there."""
    command = [sys.executable, "-m", "tests.kg_edit.locate_then_edit.counted_steps", *FAMILIES]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    *lines, last = (json.loads(line) for line in run.stdout.splitlines() if line)  # the profiler prints empty lines
    assert last == {"solve": {"waits": 0, "copies": 0}}
    assert [line["family"] for line in lines] == [*FAMILIES]
    for line in lines:
        assert line["steps"] == line["further_steps"] == {"waits": 1.0, "copies": 0.0}, line["family"]
        # A written token: its number is read and copied back; transformers reads whether each mask has padding.
        windows = line["family"] in ("gemma2", "gemma3_text", "mistral", "olmo3", "phi3", "qwen2")
        waits, copies, scored = (4, 2, 3) if windows else (2, 1, 1)
        assert line["token"]["waits"] <= waits and line["token"]["copies"] <= copies, line["family"]
        patched = line["patched token"]  # and which token has which patch; no factor
        assert patched["waits"] <= waits and patched["copies"] <= 2 * copies, line["family"]
        assert line["scored"] <= scored, line["family"]
        assert line["norm"] > 0, line["family"]
