"""The pictures of the results are drawn from the tables of their pages."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_picture_of_single_edits_has_the_rows_of_its_table(tmp_path: Path) -> None:
    drawing = runpy.run_path(str(ROOT / "pipelines" / "draw_single_edits.py"))
    page = (ROOT / "docs" / "single_edits.md").read_text(encoding="utf-8")
    table = {row.name: row for row in drawing["rows"](page)}
    assert next(iter(table)) == "unedited" and len(table) > 30
    assert f"| ROME, `fast` | .99 [.97, 1.00] | {table['ROME, fast'].values[2].mean:.2f}".replace("0.", ".") in page
    drawing["main"](["--out", str(tmp_path / "drawn.svg")])
    assert (tmp_path / "drawn.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_cell_that_is_no_mean_is_named() -> None:
    value = runpy.run_path(str(ROOT / "pipelines" / "draw_single_edits.py"))["value"]
    assert value("1.00") == (1.0, 1.0, 1.0) and value(".97 [.93, 1.00]") == (0.97, 0.93, 1.0)
    with pytest.raises(ValueError, match="'5 to 13' is not a mean"):
        value("5 to 13")
