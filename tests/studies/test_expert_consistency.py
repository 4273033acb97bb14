"""`expert_consistency.py` writes a row for each setting of MEMoE."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script, module


@pytest.mark.slow
def test_a_row_for_each_setting(
    script: Script, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    assert script("expert_consistency", "data.json", "--model", tiny_folder, "--results", "results") == 0
    results = module("tables").Results
    table, before = (results(folder).tables["memoe-experts"] for folder in (tmp_path / "results", ROOT / "results"))
    assert [(number.row, number.metric) for number in table] == [(number.row, number.metric) for number in before]
    assert {(number.n, number.model) for number in table} == {("2", str(tiny_folder))}
    assert all(0 <= float(number.mean) <= 1 for number in table if number.metric != "experts in use")
