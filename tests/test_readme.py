"""What the README shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kg_edit.edits.files import read_edits

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own text
    assert "Spike Hughes originates from Philadelphia" in capsys.readouterr().out
    assert (tmp_path / "patch.safetensors").stat().st_size < 50_000


def test_the_row_is_an_edit(tmp_path: Path) -> None:
    (row,) = [block for block in blocks("") if block.startswith("{")]
    (tmp_path / "edits.jsonl").write_text(row, encoding="utf-8")
    (edit,) = read_edits(tmp_path / "edits.jsonl").edits
    assert edit.target_new == "Philadelphia"


def test_every_file_it_points_at_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (Path(__file__).resolve().parents[1] / link).exists()] == []
