"""The picture of edits that last is drawn from the measured numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, module


def test_the_picture_of_the_page_is_that_of_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    drawing = module("draw_lasting")
    drawing.main(["--out", str(tmp_path / "drawn.svg")])
    drawn = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    assert all(f">{method}<" in drawn for method in drawing.METHODS)
    page = (ROOT / "docs" / "pictures" / "gallery" / "lasting.svg").read_text(encoding="utf-8")
    assert drawn.count("<path") == page.count("<path")
