import io
import re
import webbrowser
from pathlib import Path

import pytest
from rich.console import Console

from tests.wikidata_cache.link_graph import write_graph
from tests.wikidata_cache.wikidata_helpers import run_cli, write_edits, written
from wikidata_cache.sources.queries import HUB


def show(*arguments: str | Path) -> str:
    return run_cli("show", *arguments)


def test_show_of_an_edit_prints_draws_and_writes_a_page(edits: Path, tmp_path: Path) -> None:
    html, svg = tmp_path / "graph.html", tmp_path / "graph.svg"
    output = show(f"{edits}:3", "--per-node", "5", "--html", str(html), "--draw", str(svg))
    assert "Los Angeles Lakers: Miami instead of Los Angeles" in output
    assert "Q121783 P159 Q8652" in output and "headquarters location" in output
    assert "<title>Los Angeles Lakers — headquarters location → Miami</title>" in html.read_text()
    assert "headquarters location" in svg.read_text()


def test_show_passes_options_to_the_subgraph(edits: Path) -> None:
    few, both = show(f"{edits}:2", "--per-node", "1"), show(f"{edits}:2", "--per-node", "1", "--root", "subject")
    assert few.count("Q169138") == 2  # the edit, and one statement of o*
    assert few != both and "Q36159" in both
    assert show("Q1345", "--policy", "inverse-hub", "--direction", "both")


def test_table_folds_names_at_80_columns(monkeypatch: pytest.MonkeyPatch, edits: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("wikidata_cache.cli.show.table_console", lambda: console)
    show(f"{edits}:3", "--per-node", "5")
    words = shown.getvalue().split()
    assert {"Q121783", "P159", "Q8652", "headquarters"} <= set(words) and "…" not in shown.getvalue()


def test_piped_table_has_a_line_for_each_statement(tmp_path: Path) -> None:
    name = "Douglas " * 30 + "Adams"
    graph = write_graph(tmp_path, ADAMS.replace("Douglas Adams", name))
    (row,) = [line for line in show("Q42", "-g", str(graph)).splitlines() if "Q42 P31 Q5" in line]
    assert name in row and "human" in row


def test_show_opens_a_browser_only_with_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", seen.append)
    show("Q1345", "--html", str(tmp_path / "a.html"))
    assert not seen and "<title>Philadelphia</title>" in (tmp_path / "a.html").read_text()
    show("Q1345", "--html", str(tmp_path / "a.html"), "--open")
    assert seen == [(tmp_path / "a.html").as_uri()]


ADAMS = """\
Q42 | P31 | Q5
Q42 | P50 | Q42
Q42 | P31 | Q8
Q42 | P910 | Q7
Q42 | label | Douglas Adams
Q5 | label | human
P31 | label | instance of
P50 | label | author
Q7 | label | Category:Adams
P31 | description | type of the subject
Q99 | merged into | Q42
"""


@pytest.fixture
def adams(tmp_path: Path) -> str:
    """Two statements of Q42 to show, one without a label and one housekeeping; Q99 was merged into Q42."""
    return str(write_graph(tmp_path, ADAMS))


def test_show_follows_a_merged_id(adams: str, tmp_path: Path) -> None:
    output = show("Q99", "-g", adams, "--html", str(tmp_path / "a.html"))
    assert "Douglas Adams (Q42); Q99 was merged into it" in output and "Q42 P31 Q5" in output
    assert "Q99 was merged into Q42" in (tmp_path / "a.html").read_text()


def test_show_counts_left_out_statements_by_reason(adams: str, edits: Path) -> None:
    assert "left out: 1 with a housekeeping property, 1 without a label" in show("Q42", "-g", adams)
    output = show("Q42", "-g", adams, "--per-node", "0")
    assert "no statement to show" in output and "2 not sampled (--per-node)" in output and "hop" not in output
    assert "beyond --max-edges" in show(f"{edits}:2", "--max-edges", "2")
    silent = show("Q5", "-g", adams)
    assert "has no statement about this item" in silent and "--direction both" in silent
    assert "Q42 P31 Q5" in show("Q5", "-g", adams, "--direction", "both")


def test_show_names_hubs_whose_incoming_statements_are_left_out(tmp_path: Path) -> None:
    rows = "".join(f"Q{number}\tP31\tQ5\n" for number in range(10, 11 + HUB))
    graph = written(tmp_path / "g.tsv", f"{rows}Q5\tlabel\thuman\n")
    output = show("Q5", "-g", graph, "--direction", "both")
    assert "left out: the incoming statements of Q5, more than 500 each" in output and "has no statement" not in output
    assert "left out" not in show("Q5", "-g", graph)


def test_relation_without_a_label_is_shown_by_its_id(adams: str, tmp_path: Path) -> None:
    row = {"subject": "Eve", "relation_id": "P404", "target_new": "Douglas Adams", "target_new_id": "Q42"}
    assert re.search("Eve +│ P404 +│", show(write_edits(tmp_path / "e.jsonl", row), "-g", adams))


def test_show_describes_a_property(adams: str) -> None:
    output = show("P31", "-g", adams)
    assert "instance of (P31): type of the subject" in output and "about items" in output and "hop" not in output
