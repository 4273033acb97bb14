"""`study.py` runs the parts of the study, and writes their tables."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from kg_edit.errors import KgEditError
from kg_edit.evaluate import evaluate
from kg_edit.methods import method_names
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.evaluate.conftest import Nudge
from tests.pipelines.scripts import FOLDER, Script, first_cells, module


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, script: Script) -> ModuleType:
    """`study.py` as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    return module("study")


@pytest.mark.slow
def test_the_study_of_runs_that_are_there(study: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    model, records = LanguageModel.load(str(tiny_folder)), study.find_dataset("counterfact-plus")(Path("data.json"))
    for name in ("glame", "rome"):
        evaluate(Nudge(model), model, records[:2], out=tmp_path / "out" / "single" / name, ceilings=True)
    study.main(["--tables", "--out", "out"])
    text = (tmp_path / "out" / "tables.md").read_text()
    assert first_cells(text) == [
        "",
        "---",
        "unedited",
        "glame",
        "rome",
        "*fact in prompt*",
        "*fact and relation in prompt*",
    ]
    assert text.startswith(
        "## single\n\n|  | efficacy | greedy | paraphrase | neighborhood | portability: greedy | nll"
    )
    assert "2 records; schedule single." in text and "## mquake\n\nNo run yet.\n" in text


def test_the_study_leaves_out_methods_without_their_network(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(study, "run_part", lambda part, names, options: asked.append(names))
    untrained = ("--set", "serac.untrained=true", "--set", "glame-net.network=net/")
    for network in ((), ("--network", "mend=mend/", "--network", "ke=ke/"), untrained):
        study.main(["--out", str(tmp_path), *network])
    bare, trained, others = (set(method_names()) - set(names) for names in asked)
    assert (bare, trained, others) == ({"glame-net", "ke", "mend", "serac"}, {"glame-net", "serac"}, {"ke", "mend"})


def test_a_row_with_other_settings_has_a_folder_of_its_own(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(study, "run_part", lambda *_: None)
    options = ["--out", str(tmp_path), "--methods", "ike", "--set", "ike.count=16"]
    study.main(options)
    given = study._parser().parse_args([*options, "--label", "16", "--seed", "1"])
    assert (study.own_settings("ike", given), study.row_of("ike", given)) == ({"count": 16}, "ike-16-seed1")
    with pytest.raises(KgEditError, match="unknown method of --set 'mello'"):
        study.main([*options, "--set", "mello.count=3"])
    with pytest.raises(KgEditError, match="unknown method of --network 'mned'"):
        study.main([*options, "--network", "mned=mend/"])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["single", "knowedit", "retention"])
def test_a_part_of_the_study(
    part: str, script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # as a script's own folder is
    assert script("study", "--part", part, "--limit", "2", "--methods", "definition", "--out", "out") == 0
    table = (tmp_path / "out" / "tables.md").read_text().partition(f"## {part}\n")[2]
    assert first_cells(table)[2:4] == ["unedited", "definition"]
    row = next(line for line in table.splitlines() if line.startswith("| definition"))
    assert row.count("[") >= 3, "scores with intervals"
    assert part != "retention" or "\N{EN DASH}" not in row, "each rate has a value"


@pytest.mark.slow
def test_a_run_of_the_study_grows_with_its_limit(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    for limit in ("2", "3"):
        assert script("study", "--part", "single", "--limit", limit, "--methods", "definition", "--out", "out") == 0
    assert "\n3 records" in (tmp_path / "out" / "tables.md").read_text()


def test_the_study_leaves_out_the_records_on_which_settings_were_chosen(study: ModuleType, shared: Path) -> None:
    every = study.find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")
    assert study.PARTS["single"].every()[0].id == every[24].id
    assert study.PARTS["sequence"].every()[0].id == every[0].id
