"""A run with `graph-memory` has the walk of each answer in its lines and on a page."""

from __future__ import annotations

import re
from pathlib import Path

from kg_edit.evaluation.records import RunFolder, Section
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.walks_page import WALKS
from kg_edit.methods.graph_memory.method import GraphMemory
from tests.kg_edit.evaluation.conftest import Nudge, record
from tests.kg_edit.methods.graph_memory.toy import TO_TURKEY
from tests.kg_edit.tiny import tiny

SECOND = "The capital of Turkey is Ankara."


def test_run_of_the_packaged_graph_shows_its_walks(tmp_path: Path) -> None:
    model = tiny("llama")
    method = GraphMemory.on(model, settings={"choose": "words", "recall": False, "examples": 0})
    evaluate(method, model, [TO_TURKEY], out=tmp_path)
    sections = dict[str, Section]()
    for entry in RunFolder(tmp_path).entries():
        sections |= entry.sections
    assert sections["base"].walks == {}
    walks = sections["edited"].walks
    assert walks.keys() == sections["edited"].texts.keys()
    (question,) = TO_TURKEY.portability
    assert [statement.sentence for statement in walks[question.question]][1] == SECOND
    page = (tmp_path / WALKS).read_text()
    walked = sum(bool(walk) for walk in walks.values())
    assert 0 < walked < len(walks)  # the prompt about Toyota has none
    assert f"{walked} of {len(walks)} answers" in page
    assert len(re.findall("<svg", page)) == walked
    assert f"{SECOND}  (Q43, P36, Q3640; from the graph)" in page


def test_run_of_another_method_has_no_such_page(method: Nudge, tmp_path: Path) -> None:
    evaluate(method, method.model, [record(1, "Rome")], out=tmp_path)
    assert not (tmp_path / WALKS).exists()
