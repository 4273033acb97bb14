"""An edit loads the files that it needs: ROME no graph, and no method of the core a wing, a report or a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kg_edit.command_line import tiny_folder

__all__ = ["tiny_folder"]  # a fixture

PACKAGES = ("kg_common", "kg_edit", "wikidata_cache")
NEVER = ("cli", "evaluation", "reports", "ship", "zoo", "planning")  # rooms of kg_edit that no edit needs
# The rooms of kg_edit that an edit with ROME may load files of
ROME = {
    *("callbacks", "covariance", "edits", "engine", "errors", "locate_then_edit", "methods", "models", "patches"),
    *("registry", "storage", "version", "writing_systems"),
}
# The files of methods/ that it may load: its own, its base classes, and how it is found
METHODS = {"base", "config", "entries", "rome", "value_method", "workload"}
EDIT = """
import json, sys
from kg_edit import Edit, {method}
edit = Edit(subject="LeBron James", prompt="{{}} plays for the", target_new="Lakers", relation="team")
settings = {{"layer": 1, "steps": 2, "further_steps": 0, "context_lengths": [[3, 1]], "covariance": {{"tokens": 300}}}}
{method}.on({model!r}, settings=settings{graph}).edit([edit])
loaded = [name for name in sys.modules if name.partition(".")[0] in {packages!r}]
print(json.dumps(sorted(loaded)))
"""


def loaded_by(method: str, model: Path, graph: Path | None = None) -> list[str]:
    """Return the modules of the packages that an edit in a fresh process loads."""
    given = "" if graph is None else f", graph={str(graph)!r}"
    code = EDIT.format(method=method, model=str(model), graph=given, packages=PACKAGES)
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    modules: list[str] = json.loads(process.stdout.splitlines()[-1])
    return modules


def rooms_of(modules: list[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("kg_edit.") and "." in name}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graph") / "facts.csv"
    file.write_text("head,relation,tail\nLakers,home,Los Angeles\nLos Angeles,state,California\n")
    return file


@pytest.mark.slow
def test_rome_loads_no_graph_and_no_wing(tiny_folder: Path) -> None:
    modules = loaded_by("Rome", tiny_folder)
    assert [name for name in modules if name.startswith("wikidata_cache")] == []
    assert rooms_of(modules) <= ROME
    methods = {name.split(".")[2] for name in modules if name.startswith("kg_edit.methods.")}
    assert methods <= METHODS


@pytest.mark.slow
def test_glame_loads_graphs_and_no_wing(tiny_folder: Path, facts: Path) -> None:
    modules = loaded_by("Glame", tiny_folder, facts)
    assert rooms_of(modules) <= {*ROME, "graphs", "text"}
    assert rooms_of(modules).isdisjoint(NEVER)
