import json
import webbrowser
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wikidata_helpers import LAKERS, LEBRON

from wikidata_cache import cli
from wikidata_cache.errors import BadOptionError, WikidataCacheError

runner = CliRunner()


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    path = tmp_path / "edits.jsonl"
    path.write_text("".join(json.dumps({k: v for k, v in asdict(e).items() if v}) + "\n" for e in (LEBRON, LAKERS)))
    return path


def run(*arguments: str) -> str:
    result = runner.invoke(cli.app, ["show", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_row_of_edits_as_words_page_and_picture(edits: Path, tmp_path: Path) -> None:
    html, svg = tmp_path / "graph.html", tmp_path / "graph.svg"
    output = run(f"{edits}:2", "--per-node", "5", "--html", str(html), "--draw", str(svg))
    assert "Los Angeles Lakers: Miami instead of Los Angeles" in output
    assert "Q121783 P159 Q8652" in output and "headquarters location" in output
    assert "<title>Los Angeles Lakers — headquarters location → Miami</title>" in html.read_text()
    assert "headquarters location" in svg.read_text()


def test_options_reach_the_subgraph(edits: Path) -> None:
    few, both = run(f"{edits}:1", "--per-node", "1"), run(f"{edits}:1", "--per-node", "1", "--root", "subject")
    assert few.count("Q169138") == 2  # the edit, and one statement of o*
    assert few != both and "Q36159" in both
    assert run("Q1345", "--max-edges", "1", "--policy", "inverse-hub", "--direction", "both")


def test_an_item_as_a_page(tmp_path: Path) -> None:
    run("Q1345", "--per-node", "3", "--html", str(tmp_path / "a.html"))
    assert "<title>Philadelphia</title>" in (tmp_path / "a.html").read_text()


def test_the_browser_opens_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", seen.append)
    run("Q1345", "--html", str(tmp_path / "a.html"))
    assert not seen
    run("Q1345", "--html", str(tmp_path / "a.html"), "--open")
    assert seen == [(tmp_path / "a.html").as_uri()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{edits}"], "holds 2 edits; name one of them"),
        (["{edits}:3"], "no such row"),
        (["Q1345", "--open"], "give --html"),
        (["{edits}:1", "--root", "everything"], "expected a sequence from"),
        (["Philadelphia"], "not a Wikidata id"),
    ],
)
def test_what_cannot_be_shown(edits: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((BadOptionError, WikidataCacheError), match=message):
        run(*(argument.format(edits=edits) for argument in arguments))
