"""`quantised.py` asks edits that are made in bfloat16, moved onto a 4-bit base, and made on it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.kg_edit.evaluation.datasets.rows import COUNTERFACT
from tests.kg_edit.tiny import save_larger
from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script


@pytest.mark.slow
def test_edits_on_a_base_of_four_bits(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run twice: the second run computes nothing. An edit holds where it was made; 4-bit weights are smaller."""
    pytest.importorskip("bitsandbytes")
    rewrite = COUNTERFACT["requested_rewrite"]
    rows = []
    for number in range(26):
        named = {**rewrite, "subject": f"LeBron James {number}"}
        rows.append({**COUNTERFACT, "case_id": number, "requested_rewrite": named})
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    shutil.copytree(ROOT / "results", tmp_path / "results")
    save_larger(tmp_path / "larger")
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
