import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wikidata_cache import cli, packaged_extract

runner = CliRunner()


def run(*arguments: str) -> str:
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_show_prints_labelled_statements_and_draws(tmp_path: Path) -> None:
    output = run("show", "Q1345", "--per-node", "100", "--draw", str(tmp_path / "a.svg"))
    assert "Philadelphia (Q1345)" in output
    assert "located in time zone" in output
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_labels_and_find() -> None:
    assert run("labels", "Q1345", "P19", "Q999999999") == "Q1345\tPhiladelphia\nP19\tplace of birth\nQ999999999\t\n"
    assert run("find", "place of birth") == "P19\n"
    assert runner.invoke(cli.app, ["find", "no such thing"]).exit_code == 1


def test_version() -> None:
    assert run("--version") == f"wikidata-cache {version('kg-edit')}\n"
    assert "subgraphs of Wikidata" in run("--help")


def test_show_of_an_item_that_is_only_labelled(tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text("Q1\tlabel\tOne\n")
    assert "One (Q1)" in run("show", "Q1", "-g", str(tmp_path / "g.tsv"))


def test_markup_in_labels_is_text(tmp_path: Path) -> None:
    (tmp_path / "g.tsv").write_text("Q1\tP1\tQ2\nQ1\tlabel\t[red]One[/]\nP1\tlabel\t[/b]\nQ2\tlabel\t[x]\n")
    output = run("show", "Q1", "-g", str(tmp_path / "g.tsv"))
    assert "[red]One[/]" in output and "[/b]" in output and "[x]" in output


def test_extract(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.tsv"
    seeds.write_text("id\tlabel\nQ65\tLos Angeles\n")
    output = run("extract", str(seeds), str(tmp_path / "small.nt.gz"), "--per-node", "4")
    assert "4 statements" in output
    assert run("find", "Los Angeles", "-g", str(tmp_path / "small.nt.gz")) == "Q65\n"


@pytest.mark.parametrize("command", ["show", "labels", "find", "extract"])
def test_help_has_examples(command: str) -> None:
    assert "Example" in run(command, "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels", "Philadelphia"], "not a Wikidata id"),
        (["show", "Q1", "-g", "nowhere.nt.gz"], "does not exist"),
        (["find", "x", "-g", "https://query.wikidata.org/sparql"], "KG_EDIT_CONTACT"),
        (["extract", "no_seeds.tsv", "out.nt.gz"], "cannot be read"),
        (["extract", "no_seeds.tsv", "no_folder/out.nt.gz"], "no_folder/out.nt.gz cannot be written"),
        (["show", "Q999999999"], "Q999999999 is not in the graph extract.nt.gz"),
        (["show", "Q1345", "--draw", "no_folder/a.svg"], "there is no folder no_folder"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["wikidata-cache", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("wikidata-cache: ") and error.count("\n") == 1


def test_the_package_needs_neither_torch_nor_kg_edit() -> None:
    probe = (
        "import sys, wikidata_cache, wikidata_cache.cli, wikidata_cache.view.svg;"
        "print(sorted({'torch', 'kg_edit', 'matplotlib.pyplot', 'SPARQLWrapper'} & sys.modules.keys()))"
    )
    root = packaged_extract().parents[2]
    done = subprocess.run([sys.executable, "-c", probe], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
