"""Every script in pipelines/ starts; a short one makes its method's edit; the paper's table is written."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kg_edit.methods import find_method, method_names
from tests.kg_edit.command_line import EDITS, GRAPH, cache, tiny_folder
from tests.kg_edit.evaluate.conftest import CITIES
from tests.kg_edit.evaluate.test_cli_runs import row

__all__ = ["cache", "tiny_folder"]  # fixtures

FOLDER = Path(__file__).resolve().parents[1] / "pipelines"
SHORT = sorted(file.stem for file in FOLDER.glob("*.py") if "from _pipeline import run" in file.read_text())
METHODS = {name: name.replace("_", "-") for name in ("rome", "glame", *SHORT)}


def test_every_method_has_its_script() -> None:
    assert sorted(METHODS.values()) == sorted(method_names())


@pytest.mark.parametrize("name", SHORT)
def test_a_short_script_runs_its_own_method_and_says_how(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    said = ast.get_docstring(tree) or ""
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert ast.unparse(call) == f"run('{METHODS[name]}', __doc__)"
    assert f"python pipelines/{name}.py edits.jsonl" in said
    assert "--graph" in said or not find_method(METHODS[name]).needs_graph


def run(script: str, *arguments: str | Path, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FOLDER / f"{script}.py", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "KG_EDIT_CACHE": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "edits.jsonl").write_text(EDITS)
    (tmp_path / "graph.tsv").write_text(GRAPH)
    (tmp_path / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:2])]))
    return tmp_path


def test_a_short_script_from_edits_to_a_patch(place: Path, tiny_folder: Path, cache: Path) -> None:
    options = ("--set", "steps=2", "--set", "covariance.tokens=500", "--set", "context_lengths=[[5, 2]]")
    made = run(
        "rome_kg",
        *("edits.jsonl", "--model", tiny_folder, "--graph", "graph.tsv", "--out", "out", *options),
        cwd=place,
        home=cache,
    )
    assert made.returncode == 0, made.stderr
    assert "LeBron James plays for" in made.stderr and "after:" in made.stderr
    assert {"patch.safetensors", "records.jsonl", "report.md", "subgraph-lebron.svg"} <= {
        file.name for file in (place / "out").iterdir()
    }
    wrong = run("rome_kg", "edits.jsonl", "--set", "stps=2", cwd=place, home=cache)
    assert wrong.returncode == 2 and "did you mean 'steps'" in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_papers_table(place: Path, tiny_folder: Path, cache: Path) -> None:
    graph = GRAPH + "Q169138\tP159\tQ7\nQ169138\tlabel\tMiami Heat\nQ7\tlabel\tMiami\n"
    (place / "graph.tsv").write_text(graph + "Q1345\tP17\tQ5\nQ1345\tlabel\tPhiladelphia\n")
    made = run(
        "paper_table",
        *("--data", "data.json", "--graph", "graph.tsv", "--model", tiny_folder, "--limit", "2", "--out", "out"),
        cwd=place,
        home=cache,
    )
    assert made.returncode == 0, made.stderr
    lines = (place / "out" / "table.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    rows = ["FT", "ROME", "ROME-KG", "MEMIT", "MEMIT-KG", "GLAME", "w/ MLP", "w/ GNN", "w/o GKE", "random graph"]
    assert names == ["", "---", "unedited", *rows, "*fact in the prompt*", "*fact and relation in the prompt*"]
    assert all(line.rstrip(" |").endswith(" 0") for line in lines[3:13])  # none failed
