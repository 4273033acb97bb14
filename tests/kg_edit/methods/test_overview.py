"""The list of methods, for people."""

from __future__ import annotations

from pathlib import Path

from kg_edit.methods import find_method, method_names
from kg_edit.methods.overview import HEADER, all_methods, methods_page, row_of, settings
from kg_edit.methods.rome.method import RomeConfig

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "methods.md"


def test_a_line_for_each_method() -> None:
    rows = {row[0]: dict(zip(HEADER, row, strict=True)) for row in map(row_of, all_methods())}
    assert tuple(rows) == method_names()
    assert [rows["rome"][column] for column in ("changes", "batch", "remove")] == ["weights", "sequence", "recomputed"]
    assert [rows["grace"][column] for column in ("changes", "remove")] == ["adapter", "exact"]
    assert rows["glame"]["graph"] == "yes" and "2402.13593" in rows["glame"]["paper"]
    assert all(all(row.values()) for row in rows.values())


def test_every_setting_is_explained() -> None:
    for name in method_names():
        assert all(meaning for _, _, meaning in settings(find_method(name))), name


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == methods_page(), (
        "write it anew: kg-edit methods --markdown > docs/methods.md"
    )


def test_the_listed_values_are_those_that_the_preset_default_uses() -> None:
    shown = {name: {field: value for field, value, _ in settings(find_method(name))} for name in ("rome", "ft-ewc")}
    assert shown["rome"]["further_steps"] == str(RomeConfig.preset("default").further_steps) != "0"
    assert shown["ft-ewc"]["anchor"] == "original"
    assert "answers.steps" in {field for field, _, _ in settings(find_method("glame-plus"))}
