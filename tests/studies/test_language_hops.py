"""`language_hops.py` edits the country of a capital in one language and asks two hops in others."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from kg_edit.graphs.source import open_named
from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script


def test_every_move_has_an_answer_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    from language_hops import OLD_FACTS, edit_of, facts_by_relation, moves, sentence_of

    facts = facts_by_relation()
    for relation, country, end in OLD_FACTS:
        facts[relation].setdefault(country, end)
    found = moves()
    assert len({(move.city, move.new) for move in found}) == len(found) == 28
    for move in found:
        assert facts["P36"][move.old] == move.city != move.new
        assert move.hops
        for hop in move.hops:
            assert facts[hop.relation][move.new] == hop.choices[0]
            assert facts[hop.relation].get(move.old) != hop.choices[0]
            assert len(set(hop.choices)) == 5
    first = found[0]
    assert edit_of(first, "zh").text == "巴黎所在的国家是"
    assert sentence_of(first, first.hops[0], "zh") == "巴黎所在的国家的官方语言是"
    assert sentence_of(first, first.hops[1], "de") == "Die Währung des Landes von Paris ist"


def test_the_graph_has_the_facts_and_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    from language_hops import write_graph

    graph = open_named([str(write_graph(tmp_path))], language="zh")
    assert ("P38", "Q8146") in graph.facts.out(["Q17"])["Q17"]
    assert ("P17", "Q142") in graph.facts.out(["Q90"])["Q90"]
    assert graph.labels(["Q90"])["Q90"] == "巴黎"


@pytest.mark.slow
def test_hops_resume(script: Script, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run makes no edit, and writes the same; the files hold the known questions."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.syspath_prepend(STUDIES)
    command = ("language_hops", "--model", tiny_folder, "--results", "results")
    options = ("--out", "out/lines.jsonl", "--limit", "2", "--methods", "graph-memory,rag")
    assert script(*command, *options) == 0
    lines = (tmp_path / "out" / "lines.jsonl").read_bytes()
    assert len(lines.splitlines()) == 2 * (1 + 4), "unedited, and two methods in two languages"
    with (tmp_path / "results" / "languages.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "languages-hops"]
    assert {row["method"] for row in rows if row["model"] == str(tiny_folder)} <= {"unedited", "graph-memory", "rag"}
    assert script(*command, *options) == 0
    assert (tmp_path / "out" / "lines.jsonl").read_bytes() == lines

    assert script(*command, "--write", "files") == 0
    written = (tmp_path / "files" / "hops-ko.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(written) == 28
    assert json.loads(written[0])["language"] == "ko"
