"""`survival.py` asks edits in the next release of a model: beside it, merged before it, and rebased onto it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.pipelines.scripts import STUDIES, Script
from tests.studies.inputs import write_inputs


@pytest.mark.slow
def test_edits_in_the_next_release(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run twice: the second run computes nothing, and writes the same. An edit holds on the model it was made for."""
    write_inputs(tmp_path, records=28)
    monkeypatch.syspath_prepend(STUDIES)
    options = ("--methods", "rome", "--sizes", "1,2", "--draws", "1,1", "--steps", "3", "--out", "out/survival.jsonl")
    command = ("survival", "--data", "dev.json", "--model", tmp_path / "larger", *options, "--results", "results")
    assert script(*command) == 0
    lines = (tmp_path / "out" / "survival.jsonl").read_text()
    assert lines.count("\n") == 2
    with (tmp_path / "results" / "methods.csv").open(newline="") as file:
        found = {
            (row["settings"], row["metric"]): row["mean"]
            for row in csv.DictReader(file)
            if row["table"] == "survival" and row["model"] != "SmolLM2-135M"
        }
    for state in ("old", "kept beside", "merged before", "rebased", "unedited"):
        assert ("1 edit, " + state, "generated") in found
    assert found["1 edit, old", "likelier"] == "1.00"
    assert found["1 edit, rebased", "likelier"] == "1.00"
    table = (tmp_path / "results" / "methods.csv").read_text()
    assert script(*command) == 0
    assert (tmp_path / "out" / "survival.jsonl").read_text() == lines
    assert (tmp_path / "results" / "methods.csv").read_text() == table
