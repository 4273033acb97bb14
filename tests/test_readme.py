"""What the README shows works, no page points at a missing file, and the reference has every public name."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from kg_edit.edits.files import read_edits
from tests.pages import DOCS, README, ROOT


@pytest.mark.slow
def test_python_example_edits_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = README.blocks("python")
    exec(compile(code.text, "README.md", "exec"), {})  # noqa: S102 - our own text
    assert "The Eiffel Tower is in the city of Rome" in capsys.readouterr().out
    assert (tmp_path / "patch.safetensors").stat().st_size < 50_000


def test_row_is_read_as_an_edit(tmp_path: Path) -> None:
    (row,) = README.blocks("json")
    (tmp_path / "edits.jsonl").write_text(row.text, encoding="utf-8")
    (edit,) = read_edits(tmp_path / "edits.jsonl").edits
    assert edit.target_new == "Rome"


def test_linked_files_exist() -> None:
    missing = {page.name: page.missing_files() for page in (README, *DOCS)}
    assert {name: files for name, files in missing.items() if files} == {}


@pytest.mark.parametrize("package", ["kg_edit", "wikidata_cache"])
def test_reference_has_every_public_name(package: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text(encoding="utf-8")
    named = [line.removeprefix(f"::: {package}.") for line in page.splitlines() if line.startswith(":::")]
    assert sorted(named) == sorted(importlib.import_module(package).__all__)
