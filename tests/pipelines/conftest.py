"""A script with arguments, as a user runs it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tests.kg_edit.command_line import EDITS, GRAPH, cache, tiny_folder
from tests.kg_edit.evaluation.conftest import CITIES
from tests.kg_edit.evaluation.test_cli_runs import row
from tests.kg_edit.short_answers import write_little
from tests.pipelines.scripts import FOLDER, STUDIES, Script, file_of

__all__ = ["cache", "tiny_folder"]  # fixtures


@pytest.fixture
def script(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Script:
    """A script with arguments, as a user runs it, in this process: its exit code."""
    monkeypatch.setenv("KG_EDIT_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    write_little(monkeypatch)
    for folder in (FOLDER, STUDIES):  # as Python does for a script: they import each other
        monkeypatch.syspath_prepend(str(folder))
    (tmp_path / "edits.jsonl").write_text(EDITS)
    (tmp_path / "graph.tsv").write_text(GRAPH)
    (tmp_path / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:2])]))
    caplog.set_level("INFO")

    def run(name: str, *arguments: str | Path) -> int:
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
        caplog.clear()
        try:
            runpy.run_path(str(file_of(name)), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run
