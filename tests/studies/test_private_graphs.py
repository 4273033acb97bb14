"""`private_graphs.py` asks what edits with a private graph teach; its questions are answered by its graphs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script

DATA = STUDIES / "private_graphs"
KINDS = {"as a question": 1, "other facts": 2}  # how many questions an edit has; what follows is asked in three ways
FOLLOWS = ("in the words of the graph", "in other words", "by a relation of one's own")


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def test_every_answer_is_stated_by_the_graph_of_its_edit() -> None:
    asked: dict[str, list[dict[str, str]]] = {}
    for row in read_table(DATA / "questions.tsv"):
        asked.setdefault(row["edit"], []).append(row)
    edits = 0
    for name in ("company", "museum", "fleet"):
        statements = read_table(DATA / f"{name}.tsv")
        for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            edit = json.loads(line)
            edits += 1
            old = [row["tail"] for row in statements if (row["head"], row["relation"]) == _fact_of(edit)]
            assert old == [edit["target_true"]]
            stated = {row["tail"] for row in statements if row["head"] == edit["target_new"]}
            counts: dict[str, int] = {}
            for row in asked.pop(edit["id"]):
                counts[row["measure"]] = counts.get(row["measure"], 0) + 1
                if row["measure"].startswith("what follows"):
                    assert row["answer"] in stated, row
                    assert edit["target_new"] not in row["question"], row
                elif row["measure"] == "as a question":
                    assert row["answer"] == edit["target_new"], row
                else:
                    assert not row["answer"], row
            assert counts == KINDS | {f"what follows, {kind}": 1 for kind in FOLLOWS}, edit["id"]
    assert edits == 15 and not asked


def _fact_of(edit: dict[str, str]) -> tuple[str, str]:
    return edit["subject"], edit["relation"]


@pytest.mark.slow
def test_a_second_run_asks_nothing_again(
    script: Script, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.syspath_prepend(STUDIES)
    rows = ("graph-memory", "graph-memory+wrong", "rag")
    options = ("--out", "out/answers.jsonl", "--results", "results", "--model", tiny_folder, "--limit", 1)
    command = ("private_graphs", *options, "--rows")
    assert script(*command, ",".join(rows)) == 0
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [line["row"] for line in answers] == [row for row in ("unedited", *rows) for _ in range(3 * 7)]
    table = (tmp_path / "results" / "ripples.csv").read_text()
    named = ("private-graphs,private graphs,3,graph-memory,wrong graph,", "difference: graph-memory - rag,")
    for part in named:
        assert part in table
    assert script(*command, ",".join(rows)) == 0
    assert (tmp_path / "out" / "answers.jsonl").read_text().count("\n") == len(answers)
    assert (tmp_path / "results" / "ripples.csv").read_text() == table
    assert script(*command, "graph-memory+none") == 2
