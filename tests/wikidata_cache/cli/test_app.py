import inspect
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.wikidata_cache.wikidata_helpers import run_cli, run_main
from wikidata_cache import cli, packaged_extract

runner = CliRunner()


def test_labels_and_find() -> None:
    assert run_cli("labels", "Q1345", "P19", "Q999999999") == "Q1345\tPhiladelphia\nP19\tplace of birth\nQ999999999\t\n"
    assert run_cli("find", "place of birth") == "P19\n"
    none = runner.invoke(cli.app, ["find", "no such thing"])
    assert (none.exit_code, none.stdout) == (1, "") and "exactly the label 'no such thing'" in none.stderr


def test_version() -> None:
    assert run_cli("--version") == f"wikidata-cache {version('kg-edit')}\n"


def test_extract_writes_a_graph(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.tsv"
    seeds.write_text("id\tlabel\nQ65\tLos Angeles\n")
    output = run_cli("extract", str(seeds), str(tmp_path / "small.nt.gz"), "--per-node", "4")
    assert "4 statements" in output
    assert run_cli("find", "Los Angeles", "-g", str(tmp_path / "small.nt.gz")) == "Q65\n"
    assert run_main("extract", seeds, tmp_path / "none.nt.gz", "--per-node", "-1")[0] == 2


COMMANDS = {info.name or "": info.callback for info in cli.app.registered_commands}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse(name: str) -> None:
    group = typer.main.get_command(cli.app)
    lines = inspect.getdoc(COMMANDS[name]).partition("Examples:\n\n")[2].splitlines()  # type: ignore[arg-type]
    examples = [shlex.split(line.removeprefix("- `wikidata-cache ").removesuffix("`")) for line in lines]
    assert examples and all(example[0] == name for example in examples)
    for _, *arguments in examples:
        group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels", "Philadelphia"], "not a Wikidata id"),
        (["show", "Q1", "-g", "nowhere.nt.gz"], "does not exist"),
        (["find", "x", "-g", "https://query.wikidata.org/sparql"], "KG_EDIT_CONTACT"),
        (["extract", "no_seeds.tsv", "out.nt.gz"], "cannot be read"),
        (["extract", "no_seeds.tsv", "no_folder/out.nt.gz"], "no_folder/out.nt.gz cannot be written"),
        (["show", "Q999999999"], "Q999999999 is not in the graph extract.nt.gz"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    code, error = run_main(*arguments)
    assert code == 2 and message in error and error.startswith("wikidata-cache: ") and error.count("\n") == 1


@pytest.mark.slow
def test_package_imports_neither_torch_nor_kg_edit() -> None:
    probe = (
        "import sys, wikidata_cache, wikidata_cache.cli, wikidata_cache.view.svg;"
        "print(sorted({'torch', 'kg_edit', 'matplotlib.pyplot', 'SPARQLWrapper'} & sys.modules.keys()))"
    )
    root = packaged_extract().parents[2]
    process = subprocess.run([sys.executable, "-c", probe], cwd=root, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
