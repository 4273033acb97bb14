"""`audit.py` merges edits on disk and audits the merges."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.pipelines.scripts import STUDIES, Script
from tests.studies.inputs import write_inputs


@pytest.mark.slow
def test_audits_of_own_merges(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run twice: the second run computes nothing, and writes the same."""
    write_inputs(tmp_path, records=28)
    monkeypatch.syspath_prepend(STUDIES)
    options = ("--methods", "rome,ft", "--sizes", "1,2", "--draws", "1,1", "--out", "out/audit.jsonl")
    command = ("audit", "--data", "dev.json", "--model", tmp_path / "larger", *options, "--results", "results")
    assert script(*command) == 0
    lines = (tmp_path / "out" / "audit.jsonl").read_text()
    assert lines.count("\n") == 1 + 2 * 2
    with (tmp_path / "results" / "methods.csv").open(newline="") as file:
        found = {
            (row["method"], row["settings"].rpartition(", ")[2], row["metric"]): row["mean"]
            for row in csv.DictReader(file)
            if row["table"] == "audit" and row["model"] != "SmolLM2-135M"
        }
    for method in ("rome", "ft"):
        for settings in ("1 edit", "2 edits"):
            assert found[method, settings, "found with the base"] == "1.00"
            assert found[method, settings, "explained by the patch"] == "1.00"
            assert found[method, settings, "others found with the base"] == "0.00"
    table = (tmp_path / "results" / "methods.csv").read_text()
    assert script(*command) == 0
    assert (tmp_path / "out" / "audit.jsonl").read_text() == lines
    assert (tmp_path / "results" / "methods.csv").read_text() == table
