"""`quantised.py` asks edits that are made in bfloat16, moved onto a 4-bit base, and made on it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.pipelines.scripts import STUDIES, Script
from tests.studies.inputs import write_inputs


@pytest.mark.slow
def test_edits_on_a_base_of_four_bits(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run twice: the second run computes nothing. An edit holds where it was made; 4-bit weights are smaller."""
    pytest.importorskip("bitsandbytes")
    write_inputs(tmp_path, records=26)
    monkeypatch.syspath_prepend(STUDIES)
    options = ("--methods", "rome", "--limit", "2", "--out", "out/quantised.jsonl", "--results", "results")
    command = ("quantised", "--data", "dev.json", "--model", tmp_path / "larger", *options)
    assert script(*command) == 0
    lines = (tmp_path / "out" / "quantised.jsonl").read_text()
    assert lines.count("\n") == 2
    with (tmp_path / "results" / "methods.csv").open(newline="") as file:
        found = {
            (row["settings"].partition(", ")[2], row["metric"]): float(row["mean"])
            for row in csv.DictReader(file)
            if row["table"] == "quantised" and row["model"] not in ("SmolLM2-135M", "Qwen2.5-Coder-0.5B")
        }
    assert found["bfloat16", "likelier"] == found["made on nf4", "likelier"] == 1
    assert found["made on nf4, minus bfloat16", "likelier"] == 0
    assert found["made on nf4", "megabytes"] <= found["bfloat16", "megabytes"]
    assert script(*command) == 0
    assert (tmp_path / "out" / "quantised.jsonl").read_text() == lines
