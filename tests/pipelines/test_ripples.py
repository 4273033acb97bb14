"""`ripples.py` writes the README's table, with controls and a row's own settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from kg_edit.errors import KgEditError
from kg_edit.evaluate import Summary
from tests.kg_edit.datasets.rows import RIPPLES
from tests.pipelines.scripts import CEILINGS, FOLDER, Script, first_cells, module, nudged


@pytest.fixture
def ripples(monkeypatch: pytest.MonkeyPatch, script: Script) -> ModuleType:
    """`ripples.py`, whose runs compute their edits by a change that costs nothing."""
    monkeypatch.syspath_prepend(FOLDER)  # as a script's own folder is
    made = module("ripples")
    monkeypatch.setattr(made, "evaluate", nudged)
    return made


@pytest.fixture
def places(tmp_path: Path, tiny_folder: Path) -> tuple[str, ...]:
    """Options for a Ripples file of two records, their graph and a model."""
    edits = {"ripples-0001": ("Japan", "Q17"), "ripples-0002": ("Kenya", "Q114")}
    rows = [
        {**RIPPLES, "id": name, "edit": {**RIPPLES["edit"], "target_new": target, "target_new_id": item}}
        for name, (target, item) in edits.items()
    ]
    header = {name: RIPPLES[name] for name in ("nouns", "inverse", "choices")}
    bare = [{name: part for name, part in row.items() if name not in header} for row in rows]
    (tmp_path / "ripples.json").write_text(json.dumps({"format": "kg-edit ripples/1", **header, "records": bare}))
    names = {"Q17": "Japan", "Q114": "Kenya", "Q1490": "Tokyo", "Q3870": "Nairobi", "P36": "capital", "P17": "country"}
    lines = ["Q17\tP36\tQ1490", "Q114\tP36\tQ3870", *(f"{item}\tlabel\t{name}" for item, name in names.items())]
    (tmp_path / "places.tsv").write_text("\n".join(lines) + "\n")
    files = ("--data", str(tmp_path / "ripples.json"), "--graph", str(tmp_path / "places.tsv"))
    return (*files, "--model", str(tiny_folder), "--out", "out")


@pytest.mark.slow
def test_the_readmes_table_between_its_markers(ripples: ModuleType, tmp_path: Path, places: tuple[str, ...]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    ripples.main([*places, "--readme", str(readme)])
    text = readme.read_text()
    assert text.startswith(
        "before\n<!-- results -->\n|  | the edit | asked as a question | paraphrase | neighborhood |"
    )
    assert text.endswith("s an edit.\n<!-- /results -->\nafter\n") and "\nold\n" not in text
    rows = ["unedited", "rome", "glame", "glame-plus", "glame-plus, wrong graph", "glame-plus, no graph"]
    assert first_cells(text)[2:] == [*rows, *(f"*ceiling: {name}*" for name in CEILINGS)]
    summary = Summary.load(tmp_path / "out" / "rome" / "summary.json")
    assert f"| rome | {module('tables').cell(summary, 'edited', 'efficacy.greedy')} |" in text
    assert "2 records; 0 edits failed; rome" in text


@pytest.mark.slow
def test_a_method_and_its_controls(ripples: ModuleType, tmp_path: Path, places: tuple[str, ...]) -> None:
    ripples.main([*places, "--rows", "rome,glame:paper", "--controls"])
    rows = ["rome", "glame:paper", *(f"glame:paper, {said}" for said in ripples.CONTROLS.values())]
    assert first_cells((tmp_path / "out" / "table.md").read_text())[2:7] == ["unedited", *rows[:4]]
    assert (tmp_path / "out" / "glame-paper-wrong" / "summary.json").is_file()
    ripples.main([*places, "--rows", "glame:paper,rome"])  # the ceilings are those of the run that has them
    rows = first_cells((tmp_path / "out" / "table.md").read_text())[2:]
    assert rows[:3] == ["unedited", "glame:paper", "rome"] and all("ceiling" in name for name in rows[3:])


def test_a_rows_own_settings_seed_and_folder(ripples: ModuleType, tmp_path: Path) -> None:
    given = ["--rows", "glame+none,glame-net", "--set", "glame-net.network=net/", "--set", "glame-net.steps=3"]
    options = ripples._parser().parse_args([*given, "--seed", "1", "--schedule", "batch:8", "--out", "out"])
    glame, net = ripples.runs(options)
    assert glame.name == "glame, no graph" and glame.folder(options) == Path("out/glame-none-seed1-batch8")
    assert (glame.settings, net.settings) == ({"seed": 1}, {"network": "net/", "steps": 3, "seed": 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--rows", "glame+wrng"), "unknown control 'wrng', did you mean 'wrong'"),
        (("--rows", "rome+wrong"), "rome reads no graph"),
        (("--rows", "glame", "--set", "glame-net.steps=3"), "unknown method of --set 'glame-net'"),
        (("--readme", "README.md"), "README.md has no place for the table"),
    ],
)
def test_an_option_of_the_table_without_effect_is_named_before_a_run(
    ripples: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    monkeypatch.delattr(ripples, "evaluate")
    kept = "before\n<!-- results -->\nno end, and text to keep\n"
    (tmp_path / "README.md").write_text(kept)
    with pytest.raises(KgEditError, match=re.escape(said)):
        ripples.main([*given, "--data", "absent.json"])
    assert (tmp_path / "README.md").read_text() == kept
