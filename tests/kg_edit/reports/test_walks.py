"""The walks of `graph-memory` for a reader: ids and origins in the text, and the same statements in the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.patches.walks import WalkedStatement, find_walks
from kg_edit.reports.edit_run import LOCALITY, PAGE, RECORDS, REPORT, run_edits
from kg_edit.reports.rows import ReportRow
from kg_edit.reports.verdict import VERDICT, Verdict
from kg_edit.reports.walks import draw_walk, walk_graph, walk_lines
from kg_edit.storage.run_folder import PATCH
from tests.kg_edit.methods.graph_memory.toy import SONY, TO_TURKEY, memory
from tests.kg_edit.methods.test_methods import EDIT, method
from tests.kg_edit.tiny import tiny

CURRENCY = "What is the currency of the country of Sony?"
FOUNDER = WalkedStatement(
    subject="Bulgaria",
    relation="founder",
    object="Asparuh",
    ids=("Bulgaria", "P112", "name:asparuh"),
    sentence="The founder of Bulgaria is Asparuh.",
    origin="model",
)


def test_lines_have_ids_and_origins() -> None:
    with memory(SONY).applied(tiny("llama")) as edited:
        walks = find_walks(edited, [CURRENCY, "Who is the founder of Sony?"])
    assert walk_lines(walks[CURRENCY]) == [
        "The country of Sony is Bulgaria.  (name:sony, P17, Bulgaria; from the edit 'sony')",
        "The currency of Bulgaria is lev.  (Bulgaria, currency, lev; from the graph)",
    ]
    (line,) = walk_lines(walks["Who is the founder of Sony?"])
    assert "stays as it is" in line


def test_model_without_such_a_patch_has_no_walks() -> None:
    assert find_walks(tiny("llama"), [CURRENCY]) == {}


def test_picture_has_all_things_and_marks_what_the_model_said(tmp_path: Path) -> None:
    with memory(SONY).applied(tiny("llama")) as edited:
        fact, _ = find_walks(edited, [CURRENCY])[CURRENCY]
    walk = (fact, FOUNDER)
    labels = [label for _, _, label in walk_graph(walk).edges(data="label")]
    assert labels == ["country", "founder (by the model)"]
    assert list(walk_graph(walk).nodes) == ["name:sony", "Bulgaria", "name:asparuh"]
    assert dict(walk_graph(walk).nodes(data="hop")) == {"name:sony": 0, "Bulgaria": 1, "name:asparuh": 2}
    picture = draw_walk(walk, tmp_path / "walk.svg", title="Who founded it?").read_text(encoding="utf-8")
    for text in ("Sony", "Bulgaria", "Asparuh", "founder (by the model)", "Who founded it?"):
        assert text in picture


def test_second_walk_goes_on_from_a_thing_of_the_first() -> None:
    first = FOUNDER.model_copy(update={"ids": ("a", "P1", "b")})
    second = FOUNDER.model_copy(update={"ids": ("b", "P2", "c")})
    from_middle = FOUNDER.model_copy(update={"ids": ("b", "P3", "d")})
    hops = dict(walk_graph((first, second, from_middle)).nodes(data="hop"))
    assert hops == {"a": 0, "b": 1, "c": 2, "d": 2}  # c and d are both one statement after b


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the packaged graph."""
    model = tiny("llama")
    folder = tmp_path_factory.mktemp("run")
    settings = {"choose": "words", "recall": False, "examples": 0}
    run_edits(GraphMemory.on(model, settings=settings), model, [TO_TURKEY], folder, progress=False)
    return folder


def test_every_report_has_the_walk_of_each_answer(reported: Path) -> None:
    fact = "The country of Sony is Turkey."
    second = "The capital of Turkey is Ankara."
    walks = [walk.walk for walk in Verdict.beside(reported / PATCH).walks]  # type: ignore[union-attr]
    assert [[statement.sentence for statement in walk] for walk in walks] == [[fact], [fact, second]]
    assert [statement.origin for statement in walks[1]] == ["edit", "graph"]
    assert walks[1][1].ids == ("Q43", "P36", "Q3640")
    markdown = (reported / REPORT).read_text()
    page = (reported / PAGE).read_text()
    for text in (markdown, page):
        assert "Where each answer comes from" in text
        assert text.count(second) == 1
        assert "Q43, P36, Q3640; from the graph" in text
    pictures = page.partition("Where each answer comes from")[2].split("<svg")[1:]
    assert "Ankara" in pictures[1] and "Ankara" not in pictures[0]


def test_lines_of_a_run_have_walks_only_where_they_are_made(reported: Path, tmp_path: Path) -> None:
    lines = (reported / RECORDS).read_text().splitlines()
    rows = [ReportRow.model_validate_json(line) for line in lines]
    assert [len(row.edited.walk or ()) for row in rows] == [1, 2]
    assert all(row.unedited.walk is None for row in rows)
    other_prompts = [json.loads(line) for line in (reported / LOCALITY).read_text().splitlines()]
    assert {len(line["walk"]) for line in other_prompts} == {0}
    model = tiny("llama")
    run_edits(method("rome", model), model, [EDIT], tmp_path, locality_check=False, progress=False)
    assert "walk" not in (tmp_path / RECORDS).read_text() + (tmp_path / VERDICT).read_text()
    assert "Where each answer comes from" not in (tmp_path / REPORT).read_text() + (tmp_path / PAGE).read_text()
