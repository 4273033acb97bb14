"""`tables.py` writes the tables of the paper and of glame-plus."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from kg_edit.evaluate import evaluate
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.command_line import GRAPH
from tests.kg_edit.evaluate.conftest import Nudge
from tests.pipelines.scripts import CEILINGS, Script, first_cells, module, nudged

PAPER = ["FT", "ROME", "ROME-KG", "MEMIT", "MEMIT-KG", "GLAME", "w/ MLP", "w/ GNN", "w/o GKE", "random graph"]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, script: Script, tmp_path: Path) -> ModuleType:
    """`tables.py`, whose runs compute their edits by a change that costs nothing."""
    made = module("tables")
    monkeypatch.setattr(made, "evaluate", nudged)
    heat = "Q169138\tP159\tQ7\nQ169138\tlabel\tMiami Heat\nQ7\tlabel\tMiami\n"
    (tmp_path / "graph.tsv").write_text(GRAPH + heat + "Q1345\tP17\tQ5\nQ1345\tlabel\tPhiladelphia\n")
    return made


def test_a_score_with_its_interval(tables: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    model = LanguageModel.load(str(tiny_folder))
    records = tables.find_dataset("counterfact-plus")(Path("data.json"))
    found = evaluate(Nudge(model), model, records, out=tmp_path / "run")
    assert tables.cell(found, "base", "no.such") == "\N{EN DASH}"
    score = found.sections["base"]["portability.nll"]
    wanted = f"{score.mean:.1f} [{score.ci95_low:.1f}, {score.ci95_high:.1f}]"
    assert tables.cell(found, "base", "portability.nll") == wanted
    assert not tables.cell(found, "base", "neighborhood.prob").startswith("0.")


def test_a_rate_of_retention_is_that_of_the_curve(tables: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    model = LanguageModel.load(str(tiny_folder))
    records = tables.find_dataset("counterfact-plus")(Path("data.json"))
    found = evaluate(Nudge(model), model, records, out=tmp_path / "run", schedule="sequential:2")
    rate = (found.curve or ())[-1].retention["retention.ERR"]
    assert tables.cell(found, "edited", "retention.ERR") == f"{rate:.2f}".removeprefix("0")
    assert tables.cell(found, "edited", "retention.TRR") == "\N{EN DASH}"


@pytest.mark.slow
def test_the_papers_table(tables: ModuleType, script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    inputs = ("--data", "data.json", "--graph", "graph.tsv", "--model", tiny_folder, "--limit", "2", "--out", "out")
    assert script("tables", "paper", *inputs) == 0
    lines = (tmp_path / "out" / "table.md").read_text()
    assert first_cells(lines) == ["", "---", "unedited", *PAPER, *(f"*{name}*" for name in CEILINGS)]
    assert all(line.rstrip(" |").endswith(" 0") for line in lines.splitlines()[3:13])  # none failed


@pytest.mark.slow
def test_glame_plus_against_rome_and_a_wrong_graph(tables: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    inputs = ("--data", "data.json", "--graph", "graph.tsv", "--model", str(tiny_folder), "--limit", "2")
    tables.main(["glame-plus", *inputs, "--out", "out"])
    header = (tmp_path / "out" / "against-rome.md").read_text().splitlines()[0]
    assert "glame-plus" in header and "allowed-wrong-graph" in header
    for against in ("wrong-graph", "allowed-wrong-graph"):
        assert f"- {against}" in (tmp_path / "out" / f"against-{against}.md").read_text()
