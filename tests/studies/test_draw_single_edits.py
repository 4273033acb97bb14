"""The picture of single edits is drawn from the measured numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, module


@pytest.mark.slow
def test_the_picture_has_the_rows_of_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    drawing = module("draw_single_edits")
    rows = drawing.select_rows(drawing.Results().tables["single"])
    assert next(iter(rows)) == "unedited" and len(rows) > 50
    assert not any("records" in name for name in rows)
    drawing.main(["--out", str(tmp_path / "drawn.svg")])
    files = (tmp_path / "drawn.svg", ROOT / "docs" / "single_edits.svg")
    for text in (file.read_text(encoding="utf-8") for file in files):  # that of the page is drawn anew with its table
        assert len(set(re.findall(r'"ytick_\d+"', text))) == len(drawing.PANELS) * (len(rows) - 1)
