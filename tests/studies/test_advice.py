"""`advice.py` makes the failed edits of a run again in several ways, and counts what holds afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.reports.edit_results import EditResult
from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script, module


@pytest.fixture(autouse=True)
def studies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the studies on the path, as when one is run."""
    monkeypatch.syspath_prepend(STUDIES)


def test_ways_are_counted_over_all_edits_and_over_the_failed_ones() -> None:
    study = module("advice")
    ids = ("kept", "lost", "mended", "never")
    same = {"a": True, "b": False}
    causes = {"mended": "one subject", "never": "also alone"}

    def line(way: str, *generated: bool, in_weights: bool, **further: object) -> object:
        held = dict(zip(ids, generated, strict=True))
        return study.Line(
            edits="facts", way=way, generated=held, succeeds=held, same=same, in_weights=in_weights, **further
        )

    lines = [
        line("the run itself", True, True, False, False, in_weights=True, causes=causes),
        line("grace", True, False, True, False, in_weights=False, seconds=12.4),
    ]
    cells = {(number.table, number.method, number.metric): number for number in study.numbers(lines, "m")}
    assert cells["advice", "grace", "generated"].mean == "0.50"
    assert cells["advice", "grace", "good ones lost"].mean == "1"
    assert cells["advice", "the run itself", "good ones lost"].mean == "0"
    assert cells["advice", "grace", "other prompts the same"].n == "2"
    assert cells["advice", "grace", "all in the weights"].note == "no"
    assert cells["advice", "grace", "s of a thread"].mean == "12"
    assert cells["advice-causes", "grace", "one subject (1)"].mean == "1.00"
    assert cells["advice-causes", "grace", "also alone (1)"].mean == "0.00"
    assert not any(method == "ike" for _, method, _ in cells), "a way that was not measured has no row"


@pytest.mark.parametrize(
    ("alone", "subject", "tokens", "cause"),
    [
        (True, "Curie", 2, "one subject"),
        (True, "Fuji", 2, "only together"),
        (True, "Curie", 20, "long target"),
        (False, "Fuji", 20, "long target"),
        (False, "Curie", 2, "also alone"),
    ],
)
def test_a_failed_edit_has_one_cause(alone: bool, subject: str, tokens: int, cause: str) -> None:
    edits = []
    for number, name in enumerate(("Curie", "Curie", "Fuji")):
        edits.append(Edit(id=str(number), subject=name, prompt=f"{{}} {number}", target_new="x"))
    result = EditResult(
        edit="0",
        prompt="",
        target="",
        generated="",
        succeeded=False,
        likelier=False,
        known=False,
        tokens=tokens,
        alone=alone,
        subject=subject,
    )
    assert module("advice").cause_of(result, edits) == cause


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_of_two_ways_is_made_once(script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    ways = "ike;all by alphaedit --preset fast"
    command = ("advice", "--model", tiny_folder, "--sets", "pairs", "--ways", ways, "--results", "results")
    assert script(*command, "--out", "out") == 0
    lines = (tmp_path / "out" / "lines.jsonl").read_text()
    counts = [json.loads(line) for line in lines.splitlines()]
    assert [count["way"] for count in counts] == ["the run itself", "ike", "all by alphaedit --preset fast"]
    assert all(len(count["generated"]) == 16 for count in counts)
    assert [count["in_weights"] for count in counts] == [True, False, True]
    table = (tmp_path / "results" / "methods.csv").read_text()
    assert script(*command, "--out", "out") == 0
    assert (tmp_path / "out" / "lines.jsonl").read_text() == lines
    assert (tmp_path / "results" / "methods.csv").read_text() == table
