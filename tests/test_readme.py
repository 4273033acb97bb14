"""The README is short, what it shows works as it stands, and no page points at a file that is not there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from kg_edit.edits.files import read_edits
from tests.pages import DOCS, README, ROOT, TUTORIALS, DocPage


@pytest.mark.slow
def test_the_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = README.blocks("python")
    exec(compile(code.text, "README.md", "exec"), {})  # noqa: S102 - our own text
    assert "Spike Hughes originates from Philadelphia" in capsys.readouterr().out
    assert (tmp_path / "patch.safetensors").stat().st_size < 50_000


def test_the_row_is_an_edit(tmp_path: Path) -> None:
    (row,) = README.blocks("json")
    (tmp_path / "edits.jsonl").write_text(row.text, encoding="utf-8")
    (edit,) = read_edits(tmp_path / "edits.jsonl").edits
    assert edit.target_new == "Philadelphia"


def test_it_is_short() -> None:
    assert len(README.text.splitlines()) <= 150
    before, _, rest = README.prose.partition("<!-- results: readme -->")
    prose = (before + rest.partition("<!-- /results -->")[2]).splitlines()
    assert [line for line in prose if len(line) > 120] == []


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: Path(page.name).stem)
def test_a_tutorial_is_short(page: DocPage) -> None:
    assert 40 <= len(page.text.splitlines()) <= 90


def test_every_file_that_a_page_points_at_is_there() -> None:
    missing = {page.name: page.missing_files() for page in (README, *DOCS)}
    assert {name: found for name, found in missing.items() if found} == {}
    assert "](docs/files.md)" in README.text


@pytest.mark.parametrize("package", ["kg_edit", "wikidata_cache"])
def test_the_reference_has_every_public_name(package: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text(encoding="utf-8")
    named = [line.removeprefix(f"::: {package}.") for line in page.splitlines() if line.startswith(":::")]
    assert sorted(named) == sorted(importlib.import_module(package).__all__)
