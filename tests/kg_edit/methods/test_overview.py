"""The overview of methods, from their classes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kg_edit.methods import find_method, method_names
from kg_edit.methods.overview import HEADER, all_methods, methods_page, row_of, settings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods.md"


def test_table_has_a_row_for_each_method() -> None:
    rows = {row[0]: dict(zip(HEADER, row, strict=True)) for row in map(row_of, all_methods())}
    assert tuple(rows) == method_names()
    assert [rows["rome"][column] for column in ("changes", "batch", "remove")] == ["weights", "sequence", "recomputed"]
    assert [rows["grace"][column] for column in ("changes", "remove")] == ["adapter", "exact"]
    assert rows["glame"]["graph"] == "yes" and "2402.13593" in rows["glame"]["paper"]
    assert all(all(row.values()) for row in rows.values())


def test_default_preset_is_the_field_defaults() -> None:
    for method in all_methods():
        assert method.config_class.preset() == method.config_class(), method.name


def test_settings_have_meanings_and_include_those_of_groups() -> None:
    for method in all_methods():
        assert all(meaning for _, _, meaning in settings(method)), method.name
    shown = {field for field, _, _ in settings(find_method("glame-plus"))}
    assert {"answers.steps", "covariance.tokens"} <= shown


def test_page_is_up_to_date() -> None:
    command = "kg-edit methods --markdown > docs/methods.md"
    assert PAGE.read_text(encoding="utf-8") == methods_page(), f"write it again: {command}"


def test_names_need_no_torch_and_a_method_not_the_others() -> None:
    code = """
import sys
from kg_edit.methods import find_method, method_names
assert "mend" in method_names() and "torch" not in sys.modules
find_method("rome")
assert "kg_edit.methods.rome.method" in sys.modules and "kg_edit.methods.mend.method" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
