"""`study.py` runs the measurements and writes their numbers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kg_edit.errors import KgEditError
from kg_edit.evaluation.summary import Summary
from kg_edit.methods import method_names
from tests.kg_edit.evaluation.datasets.rows import RIPPLES
from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script, module, nudged


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, script: Script, tmp_path: Path) -> ModuleType:
    """`study.py` as a module, beside a copy of results/."""
    monkeypatch.syspath_prepend(STUDIES)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    return module("study")


def rows(study: ModuleType, *arguments: str) -> list[object]:
    return [*study.rows(study._parser().parse_args(arguments))]


def written(file: str) -> dict[str, set[str]]:
    """{table: its rows} of a CSV file of the copy."""
    tables: dict[str, set[str]] = {}
    with Path("results", f"{file}.csv").open(encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            name = ", ".join(filter(None, (line["method"], line["settings"])))
            tables.setdefault(line["table"], set()).add(name)
    return tables


@pytest.mark.slow
def test_ripples_with_a_control(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path
) -> None:
    """Two records, by a change that costs nothing, while another process writes a row."""

    def evaluated(*arguments: Any, **options: Any) -> Summary:
        results = study.Results(Path("results"))
        number = results.tables["ripples"][0]
        results.add([number._replace(method="another", settings="seed 1")])
        results.save()
        return nudged(*arguments, **options)

    monkeypatch.setattr(study, "evaluate", evaluated)
    edits = {"ripples-0001": ("Japan", "Q17"), "ripples-0002": ("Kenya", "Q114")}
    records = [
        {**RIPPLES, "id": name, "edit": {**RIPPLES["edit"], "target_new": target, "target_new_id": item}}
        for name, (target, item) in edits.items()
    ]
    bare = [{name: part for name, part in row.items() if name != "header"} for row in records]
    Path("ripples.json").write_text(json.dumps({"format": "kg-edit ripples/1", **RIPPLES["header"], "records": bare}))
    names = {"Q17": "Japan", "Q114": "Kenya", "Q1490": "Tokyo", "Q3870": "Nairobi", "P36": "capital", "P17": "country"}
    lines = ["Q17\tP36\tQ1490", "Q114\tP36\tQ3870", *(f"{item}\tlabel\t{name}" for item, name in names.items())]
    Path("places.tsv").write_text("\n".join(lines) + "\n")
    part = study.Part(table="ripples", dataset="ripples", data=Path("ripples.json"), graph="places.tsv", ceilings=True)
    monkeypatch.setitem(study.PARTS, "ripples", part)
    options = ("--part", "ripples", "--model", str(tiny_folder), "--out", "out", "--results", "results")
    study.main([*options, "--rows", "rome,glame:paper", "--controls", "--seed", "1"])
    rows = written("ripples")["ripples"]
    controls = study.CONTROLS.values()
    assert {f"glame, paper, {control}, seed 1, 2 records, {tiny_folder}" for control in controls} <= rows
    assert "another, seed 1" in rows, "a row that another process writes meanwhile is lost"
    run = Summary.load(tmp_path / "out" / "ripples" / "rome-seed-1" / "summary.json")
    with Path("results", "ripples.csv").open() as lines:
        (cell,) = (
            line["mean"]
            for line in csv.DictReader(lines)
            if (line["method"], line["settings"].partition(",")[0], line["metric"]) == ("rome", "seed 1", "the edit")
        )
    assert cell == f"{run.edited['efficacy.greedy'].mean:.2f}"


def test_a_row_has_its_own_settings_and_folder(study: ModuleType) -> None:
    options = ("--rows", "glame:code+none,rome", "--set", "rome.clamp_norm_factor=4", "--set", "rome.steps=3")
    glame, rome = rows(study, *options, "--seed", "1", "--label", "three steps")
    assert (glame.description(), glame.folder()) == (
        "code, three steps, no graph, seed 1",
        "glame-code-three-steps-no-graph-seed-1",
    )
    assert (glame.settings, rome.settings) == ({"seed": 1}, {"clamp_norm_factor": 4, "steps": 3, "seed": 1})
    assert rome.config().covariance.corpus == "self", "as in the recorded numbers"
    assert rome.config().remember == 0, "as in the recorded numbers"
    (remembers,) = rows(study, "--rows", "rome", "--set", "rome.remember=1")
    assert remembers.config().remember == 1


def test_a_row_names_its_variants(study: ModuleType) -> None:
    code, alone = rows(study, "--rows", "glame:code+start-token+wrong,glame-plus+graph-alone")
    assert (code.description(), code.control) == ("code, start token, wrong graph", "wrong")
    assert code.config().start_token and not code.config().gate, "the rest is the preset's"
    assert (alone.description(), alone.config().recalled) == ("graph alone", 0)


def test_methods_without_their_network_are_left_out(study: ModuleType) -> None:
    without = {"ke", "malmen", "mend", "rledit", "serac"}
    assert {row.method for row in rows(study)} == set(method_names()) - without
    options = ("--set", "serac.untrained=true", "--set", "mend.network=mend/")
    assert {row.method for row in rows(study, *options)} == set(method_names()) - {"ke", "malmen", "rledit"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--rows", "glame+wrng"), "unknown control 'wrng', did you mean 'wrong'"),
        (("--rows", "rome+wrong"), "rome reads no graph"),
        (("--rows", "rome+graph-alone"), "unknown setting of rome 'recalled'"),
        (("--rows", "romee"), "did you mean 'rome'"),
        (("--rows", "glame", "--set", "memit.steps=3"), "unknown method of --set 'memit'"),
    ],
)
def test_an_option_without_effect_is_refused(study: ModuleType, given: tuple[str, ...], message: str) -> None:
    with pytest.raises(KgEditError, match=re.escape(message)):
        rows(study, *given)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["single", "knowedit", "retention"])
def test_a_part_writes_its_rows(part: str, study: ModuleType, shared: Path) -> None:
    options = ("--part", part, "--rows", "definition", "--label", "test", "--out", "out", "--results", "results")
    for limit in ("3",) if part == "retention" else ("2", "3"):  # a run of single edits grows with its limit
        study.main([*options, "--limit", limit])
    table = study.PARTS[part].table
    numbers = [number for number in study.Results(Path("results")).tables[table] if "test" in number.settings]
    assert {number.n for number in numbers} >= {"3"} and len(numbers) >= 4
    assert ("definition, test, 3 edits, 3 records" in {number.row for number in numbers}) == (part == "retention")


@pytest.mark.slow
def test_records_on_which_settings_were_chosen_are_left_out(study: ModuleType, shared: Path) -> None:
    every = study.find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")
    assert study.PARTS["single"].records()[0].id == every[24].id
    assert study.PARTS["sequence"].records()[0].id == every[0].id
    assert [len(record.chain) for record in study.PARTS["mquake-1"].records()[:4]] == [2, 3, 4, 2]
