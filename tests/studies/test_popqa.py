"""`popqa.py` asks with and without a paragraph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.kg_edit.evaluation.datasets.rows import POPQA
from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script


@pytest.mark.slow
def test_popqa_with_and_without_a_paragraph(
    script: Script,
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Run twice: the second run computes nothing, and writes the same."""
    rows = [
        {**POPQA, "id": n, "subj": name, "s_uri": f"http://www.wikidata.org/entity/Q{n}", "s_pop": 10 * n}
        | {"question": f"What is {name}'s occupation?", "paragraphs": str([{"title": name, "text": "politician"}])}
        for n, name in enumerate(("Ann", "Ben", "Cid", "Dan", "Eve"), 1)
    ]
    (tmp_path / "popqa.json").write_text(json.dumps(rows))
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.syspath_prepend(STUDIES)
    options = ("--out", "out", "--results", "results", "--picture", "out/popularity.png")
    command = ("popqa", "popqa.json", "--model", tiny_folder, *options)
    assert script(*command) == 0
    assert any("Limits from 2 questions: {'occupation'" in line for line in caplog.messages)
    table, lines = tmp_path / "results" / "benchmarks.csv", tmp_path / "out" / "always" / "records.jsonl"
    rows_of = [line.split(",")[3] for line in table.read_text().splitlines() if line.startswith("popqa,")]
    assert f",{tiny_folder}," in table.read_text()
    assert len(set(rows_of)) == 4 and rows_of[-1] == "all 3", "a row for each of three questions, and all"
    assert (tmp_path / "out" / "popularity.png").stat().st_size > 5000
    before, text = lines.read_bytes(), table.read_text()
    assert script(*command) == 0
    assert lines.read_bytes() == before and table.read_text() == text
    assert script(*command[:2], "--train", 0, "--model", tiny_folder, "--out", "none") == 2
    assert not (tmp_path / "none").exists(), "a part without questions is refused before any work"
