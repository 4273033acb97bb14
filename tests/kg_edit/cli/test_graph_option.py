"""Which method and which graph a command takes: by default, from a file of facts, and if o* is in no graph."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kg_edit import Edit, Glame
from kg_edit.errors import GraphError
from kg_edit.graphs.source import open_named
from kg_edit.methods import find_method
from kg_edit.patches.base import Patch
from tests.kg_edit.command_line import (
    GOOD,
    QUICK,
    ROME,
    TRIPLET,
    Run,
    cache,
    edit,
    kg_edit,
    place,
    refused,
    rows,
    tiny_folder,
)
from tests.kg_edit.tiny import tiny
from wikidata_cache.cli import app as wikidata_cli

ROOT = Path(__file__).parents[3]
__all__ = ["cache", "edit", "kg_edit", "place", "tiny_folder"]  # fixtures

FACTS = "Rome,country,Italy\nRome,founded by,Romulus\nRome,founded by,Romulus\n"
LOST = {"id": "lost", "subject": "Ada", "prompt": "{} lives in", "target_new": "Poseidonis"}
FRANCE = {"id": "france", **GOOD, "relation": "capital"}


@pytest.fixture
def facts(place: Path) -> Path:
    """A graph of names, and two edits of which it knows one o*."""
    (place / "facts.csv").write_text(FACTS)
    (place / "edits.jsonl").write_bytes(rows(LOST, FRANCE))
    return place


def recorded(folder: Path) -> dict[str, dict[str, object]]:
    """The records of a patch's edits, by their ids."""
    records = Patch.load(folder / "patch.safetensors").edits
    return {record["edit"]["id"]: dict(record) for record in records}


@pytest.mark.slow
def test_own_facts_are_edited_by_rome_without_a_graph(edit: Run, facts: Path) -> None:
    result = edit()
    assert result.code == 0, result.err
    assert "\nno --method and no --graph given: rome. glame needs a graph with facts" in result.err
    assert json.loads((facts / "out" / "run.json").read_text())["method"] == "rome"
    refused = edit("--preset", "papers").err
    assert "unknown preset 'papers'" in refused and "no --method" not in refused


@pytest.mark.slow
def test_graph_of_names_is_read_by_glame(edit: Run, facts: Path) -> None:
    result = edit("--graph", "facts.csv")
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert "no --method given: glame, which reads the graph facts.csv" in lines
    assert "facts.csv: read 2 statements, 1 skipped (repeated rows)" in lines
    run = json.loads((facts / "out" / "run.json").read_text())
    assert run["method"] == "glame"
    assert run["graph"]["files"] == [{"name": "facts.csv", "sha256": hashlib.sha256(FACTS.encode()).hexdigest()}]
    records = recorded(facts / "out")
    assert (records["france"]["nodes"], records["france"]["edges"]) == (4, 3)
    assert "Romulus" in (facts / "out" / "report.html").read_text()


def test_object_in_another_spelling_comes_with_the_command_that_finds_it() -> None:
    glame = find_method("glame").on(tiny("llama"), graph=open_named("extract"))
    edit = Edit(subject="Marie Curie", prompt="{} was born in", relation="place of birth", target_new="Osaka")
    assert glame.why_alone(edit) == (
        "the graph has no statement of o* (Osaka), so glame reads s -r-> o* alone; wikidata-cache link finds other "
        "spellings"
    )
    assert not glame.why_alone(edit.model_copy(update={"target_new": "Ōsaka"}))


@pytest.mark.slow
def test_edit_without_statements_is_made_and_counted(edit: Run, facts: Path) -> None:
    result = edit("--graph", "facts.csv")
    assert "edit 'lost': the graph has no statement of o* (Poseidonis), so glame reads s -r-> o* alone" in result.err
    assert "1 of 2 edits read s -r-> o* alone: lost. --require-graph refuses such edits" in result.err.splitlines()
    record = recorded(facts / "out")["lost"]
    assert (record["nodes"], record["edges"]) == (2, 1)
    assert record["graph"]["kind"] == "edge alone"  # type: ignore[index]


@pytest.mark.slow
def test_statements_of_one_edit_do_not_depend_on_another(edit: Run, facts: Path) -> None:
    """The patch of an edit whose o* the graph has is the same with --require-graph, as it was without the option."""
    (facts / "edits.jsonl").write_bytes(rows(FRANCE))
    assert edit("--graph", "facts.csv", "--out", "a").code == 0
    required = edit("--graph", "facts.csv", "--require-graph", "--out", "b")
    assert required.code == 0 and "alone" not in required.err
    one, two = (Patch.load(facts / name / "patch.safetensors") for name in "ab")
    assert [dict(record) for record in one.edits] == [dict(record) for record in two.edits]
    settings = [json.loads((facts / name / "run.json").read_text())["config"]["graph"] for name in "ab"]
    assert [graph.get("require") for graph in settings] == [False, True]


@pytest.mark.slow
def test_require_graph_refuses_edits_without_statements(edit: Run, facts: Path) -> None:
    message = "the graph has no node 'Poseidonis'; add it"
    refused(edit, "--graph", "facts.csv", "--require-graph", message=message, out=facts / "out")
    (facts / "edits.jsonl").write_bytes(rows({**LOST, "target_new": "Italy"}, FRANCE))
    message = "the graph has no statement of o* (Italy); add some"
    refused(edit, "--graph", "facts.csv", "--require-graph", message=message, out=facts / "out")
    (facts / "edits.jsonl").write_bytes(
        rows({**LOST, "id": "italy", "subject": "Eve", "target_new": "Italy"}, LOST, FRANCE)
    )
    both = edit("--graph", "facts.csv", "--require-graph")
    assert both.code == 2 and "2 edits can't be made:\n  italy: the graph has no statement" in both.err
    skipped = edit("--graph", "facts.csv", "--require-graph", "--keep-going")
    assert skipped.code == 0 and "skipped: lost: " in skipped.err
    assert set(recorded(facts / "out")) == {"france"}
    (facts / "edits.jsonl").write_bytes(rows(LOST))
    assert edit("--graph", "facts.csv", "--require-graph", "--keep-going", "--out", "none").code == 2
    refused(edit, *ROME, "--require-graph", message="--require-graph has no effect: rome reads no graph", out=facts)


def test_ids_need_a_graph_and_the_message_names_it(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows(TRIPLET))
    refused(edit, message="--graph", out=place / "out")


def test_python_takes_the_name_of_a_file(facts: Path) -> None:
    for name in ("facts.csv", Path("facts.csv")):
        method = Glame.on(tiny("llama"), graph=name)
        assert method.subgraph(Edit(**FRANCE)).number_of_edges() == 3


def test_edit_alone_names_the_node_that_is_written_nearly_so(facts: Path, caplog: pytest.LogCaptureFixture) -> None:
    Glame.on(tiny("llama"), graph="facts.csv").subgraph(Edit(**{**FRANCE, "target_new": "romulos"}))
    assert "alone, did you mean 'Romulus'?" in caplog.text


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("none.csv", "none.csv: does not exist; check the path (the current folder is "),
        ("bad.csv", "bad.csv, line 2, field tail: is empty; expected head, relation and tail"),
        ("graph.tsv,facts.csv", "facts.csv has names, so it can't be combined with a graph of Wikidata's ids"),
    ],
)
def test_wrong_graph_of_names_is_refused(graph: str, message: str, edit: Run, facts: Path) -> None:
    (facts / "bad.csv").write_text("a,b,c\na,b,\n")
    options = [word for name in graph.split(",") for word in ("--graph", name)]
    refused(edit, *options, message=message, out=facts / "out")


def test_commands_that_need_ids_refuse_names(kg_edit: Run, facts: Path) -> None:
    for command in (("ripples", "--out", "r.json"), ("edits", "--out", "e.jsonl")):
        result = kg_edit("data", *command, "--graph", "facts.csv")
        assert result.code == 2 and "of Wikidata's ids, and facts.csv has names" in result.err, result.err


@pytest.mark.slow
def test_evaluation_takes_the_method_that_fits_the_graph(kg_edit: Run, facts: Path, tiny_folder: Path) -> None:
    common = ("evaluate", "--dataset", "edits", "--data", "edits.jsonl", "--model", tiny_folder, *QUICK)
    plain = kg_edit(*common, "--set", "steps=2", "--out", "plain")
    assert plain.code == 0, plain.err
    assert "no --method and no --graph given: rome" in plain.err
    with_graph = kg_edit(*common, "--set", "steps=2", "--graph", "facts.csv", "--out", "own")
    assert with_graph.code == 0, with_graph.err
    assert "1 of 2 edits read s -r-> o* alone: lost" in with_graph.err
    assert [json.loads((facts / name / "run.json").read_text())["method"] for name in ("plain", "own")] == [
        "rome",
        "glame",
    ]
    none = kg_edit(*common, "--set", "steps=2", "--graph", "facts.csv", "--control", "none", "--out", "bare")
    assert none.code == 0 and "alone" not in none.err, none.err  # the graph is left out by choice
    both = kg_edit(*common, "--control", "none", "--require-graph", "--out", "none")
    assert both.code == 2 and "remove --require-graph" in both.err


@pytest.mark.slow
def test_bad_row_is_reported_without_torch(place: Path) -> None:
    """The class of a method that may need a graph is imported after the file was read."""
    bad = place / "bad.jsonl"
    bad.write_text('{"subject": "Ada"}\n')
    code = (
        f"import sys; sys.argv = {['kg-edit', 'edit', str(bad), '--method', 'rome', '--out', str(place / 'out')]}\n"
        "from kg_edit.cli.app import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "bad.jsonl, line 1" in process.stderr
    assert process.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["facts.csv", "graph.nt", "graph.tsv", "folder/", "wd"])
def test_graph_that_is_missing_is_an_error_before_the_model_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kg_edit.methods.base.as_model", pytest.fail)
    with pytest.raises(GraphError, match=name.strip("/")) as caught:
        Glame.on("smollm2-135m", graph=str(tmp_path / name))
    assert "check the path" in str(caught.value) or "expected a packaged graph (extract, " in str(caught.value)


@pytest.mark.parametrize("name", ["facts.csv", "facts.graphml", "facts.tsv"])
def test_link_says_that_a_graph_of_names_needs_none(name: str, facts: Path) -> None:
    (facts / "facts.tsv").write_text(FACTS.replace(",", "\t"))
    result = CliRunner().invoke(wikidata_cli, ["link", "edits.jsonl", "--graph", name, "--out", "linked.jsonl"])
    assert f"{name} is a private graph: it has names instead of Wikidata's ids" in str(result.exception)
    assert f"kg-edit edit EDITS --graph {name} --out out/" in str(result.exception)
