"""`peak_memory.py` prints the memory and the time of an edit by each method that has what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.scripts import STUDIES, Script


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the script forks processes that have the model")
def test_a_line_for_each_method(script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    """In a process of its own, because the lines come from its children."""
    command = [str(STUDIES / "peak_memory.py"), "data.json", "--graph", "graph.tsv", "--model", str(tiny_folder)]
    run = subprocess.run(
        [sys.executable, *command, "--methods", "grace,mend"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (grace,) = (line for line in run.stderr.splitlines() if line.startswith(("grace:", "mend:")))
    assert "GB" in grace and grace.endswith(" s")
