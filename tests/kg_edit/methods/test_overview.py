"""The overview of methods, from their classes."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kg_edit.methods import find_method, method_names
from kg_edit.methods.config import LayerConfig
from kg_edit.methods.overview import (
    CHOICES,
    HEADER,
    OWN_PAGES,
    PAGES,
    describe_computation,
    list_settings,
    methods_page,
    row_of,
)
from kg_edit.registry import method_entries
from kg_edit.zoo.adapters.base import AdapterConfig

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods.md"


def test_table_has_a_row_for_each_method() -> None:
    rows = {row[0]: dict(zip(HEADER, row, strict=True)) for row in map(row_of, method_entries().values())}
    assert tuple(sorted(rows)) == method_names()
    assert [rows["rome"][column] for column in ("changes", "batch", "remove")] == ["weights", "sequence", "recomputed"]
    assert [rows["grace"][column] for column in ("changes", "remove")] == ["adapter", "exact"]
    assert rows["glame"]["graph"] == "yes" and "2402.13593" in rows["glame"]["paper"]
    assert all(all(row.values()) for row in rows.values())


def test_default_preset_is_the_field_defaults() -> None:
    for method in map(find_method, method_names()):
        assert method.config_class.preset() == method.config_class(), method.name


def test_settings_have_meanings_and_include_those_of_groups() -> None:
    for method in map(find_method, method_names()):
        assert all(meaning for _, _, meaning in list_settings(method)), method.name
    shown = {field for field, _, _ in list_settings(find_method("glame-plus"))}
    assert {"answers.steps", "covariance.tokens"} <= shown


def test_default_layers_are_a_range_only_if_all_of_it_is_written() -> None:
    ends = {
        name: describe_computation(find_method(name)).rpartition("blocks: ")[2]
        for name in ("memit", "glame-plus", "rome", "ike")
    }
    assert ends == {"memit": "4 to 8.", "glame-plus": "6, 26.", "rome": "6.", "ike": "none."}


def test_help_of_the_layer_names_the_depth_of_the_class() -> None:
    """Also of a class that only sets the depth, as an editor of one's own does."""

    class Deep(LayerConfig):
        depth = 0.5

    class Deeper(AdapterConfig):
        depth = 0.9

    classes = [
        method.config_class
        for method in map(find_method, method_names())
        if issubclass(method.config_class, LayerConfig)
    ]
    helps = {cls: cls.model_fields["layer"].description or "" for cls in (*classes, LayerConfig, Deep, Deeper)}
    assert "default 0.5 of the depth" in helps[Deep] and "default 0.2 of the depth" in helps[LayerConfig]
    wrong = [cls for cls, text in helps.items() if "of the depth" in text and f" {cls.depth:g} of the" not in text]
    assert not wrong and "block whose down-projection gets the adapter" in helps[Deeper]


def test_default_layers_are_those_of_a_small_model() -> None:
    for method in map(find_method, method_names()):
        config = method.config_class()
        if method.name != "glame-plus" and config.written_layers(30):  # its answers need a later block
            for blocks in (1, 2, 3):
                assert {*config.written_layers(blocks)} & {*range(blocks)} == {*config.written_layers(blocks)} != set()


def test_page_is_up_to_date() -> None:
    command = "kg-edit methods --markdown > docs/methods.md"
    assert PAGE.read_text(encoding="utf-8") == methods_page(), f"write it again: {command}"


def test_methods_with_a_page_of_their_own_are_linked() -> None:
    pages = sorted(file.stem for file in (PAGE.parent / "methods").glob("*.md"))
    assert sorted(OWN_PAGES) == pages
    assert set(pages) <= set(method_names())


def test_page_of_a_family_has_the_sections_of_its_methods() -> None:
    for method in map(find_method, method_names()):
        texts = [(PAGE.parent / f"{page}.md").read_text(encoding="utf-8") for page in PAGES[method.family]]
        title = "^# GLAME and" if method.name == "glame" else f"^## .*`{method.name}`"
        assert any(re.search(title, text, re.MULTILINE) for text in texts), method.name


def test_what_all_methods_of_a_family_share_is_above_its_table() -> None:
    sections = {part.splitlines()[0]: part for part in methods_page().split("\n## ")[1:]}
    assert "change the prompt. The edits of one call are made in sequence, one" in sections["In-context"]
    assert "| method | what it does | changes | remove | graph |" in sections["Joint"]
    assert "| `comeba` |" in sections["Joint"] and "| adapter | recomputed | no |" in sections["Joint"]


MEASURED = {  # of each choice: the table, method, settings and metric of its percentages, in their order
    "rome --preset fast": (
        ("single", "rome", "fast", "efficacy, greedy"),
        ("single", "rome", "fast", "neighborhood"),
        ("single", "unedited", "", "neighborhood"),
    ),
    "glame-plus --graph GRAPH": (
        ("ripples", "glame-plus", "late-block", "two hops, known"),
        ("ripples", "rome", "", "two hops, known"),
        ("ripples", "glame-plus", "late-block, no graph", "two hops, known"),
        ("ripples", "glame-plus", "late-block, wrong graph", "two hops, known"),
    ),
    "alphaedit --preset fast": (
        ("sequence-300", "alphaedit", "300 edits", "efficacy, greedy"),
        ("sequence-300", "memit", "fast, remember=1, 300 edits", "efficacy, greedy"),
        ("sequence-300", "rome", "fast, remember=1, 300 edits", "efficacy, greedy"),
    ),
    "serac": (("sequence-300", "serac", "150 training steps, 300 edits", "efficacy, greedy"),),
    "grace": (
        ("zsre", "grace", "", "unrelated unchanged"),
        ("zsre", "grace", "", "efficacy, greedy"),
        ("zsre", "grace", "", "paraphrase, greedy"),
    ),
    "ike": (("single", "ike", "no demonstrations", "efficacy, greedy"),),
}


def test_choices_have_the_measured_numbers() -> None:
    rows = [row for file in (PAGE.parents[1] / "results").glob("*.csv") for row in csv.DictReader(file.open())]
    means = {(row["table"], row["method"], row["settings"], row["metric"]): row["mean"] for row in rows}
    for choice in CHOICES:
        shares = [float(number) / 100 for number in re.findall(r"(\d+) %", choice.because)]
        assert shares == [float(means[key]) for key in MEASURED[choice.take]], choice.take
        assert choice.take.split()[0] in method_names()
    assert {choice.take for choice in CHOICES} == set(MEASURED)
    assert means["fast", "rome", "fast", "paraphrase"] == "0.995"  # "all but one of 200 paraphrases"
    same = [
        means["single", method, settings, "neighborhood"]
        for method, settings in (("ike", "no demonstrations"), ("unedited", ""))
    ]
    assert same[0] == same[1]


@pytest.mark.slow
def test_names_need_no_torch_and_a_method_not_the_others() -> None:
    code = """
import sys
from kg_edit.methods import find_method, method_names
assert "mend" in method_names() and "torch" not in sys.modules
find_method("rome")
assert "kg_edit.methods.rome.method" in sys.modules and "kg_edit.zoo.mend.method" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
