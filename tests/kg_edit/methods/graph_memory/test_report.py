"""A walk for a reader: ids and origins in the text, and the same statements in the picture."""

from __future__ import annotations

from pathlib import Path

from kg_edit.methods.graph_memory.edited_graph import Entity, Statement
from kg_edit.methods.graph_memory.report import draw_walk, walk_graph, walk_lines
from kg_edit.methods.graph_memory.walk import Walk
from tests.kg_edit.methods.graph_memory.toy import SONY, memory, walked


def test_lines_have_ids_and_origins() -> None:
    walk = walked(memory(SONY), "What is the currency of the country of Sony?")
    assert walk_lines(walk) == [
        "The country of Sony is Bulgaria.  (name:sony, P17, Bulgaria; from the edit 'sony')",
        "The currency of Bulgaria is lev.  (Bulgaria, currency, lev; from the graph)",
    ]
    assert "stays as it is" in walk_lines(Walk())[0]


def test_picture_has_all_things_and_marks_what_the_model_said(tmp_path: Path) -> None:
    fact, _ = walked(memory(SONY), "What is the currency of the country of Sony?").statements
    founder = Statement(
        subject=fact.object,
        relation_key="P112",
        relation_label="founder",
        object=Entity(key="name:asparuh", label="Asparuh"),
        origin="model",
        relation_name="founder",
        sentence_template="The founder of {} is {}.",
    )
    walk = Walk((fact, founder))
    labels = [label for _, _, label in walk_graph(walk).edges(data="label")]
    assert labels == ["country", "founder (by the model)"]
    picture = draw_walk(walk, tmp_path / "walk.svg", title="Who founded it?").read_text(encoding="utf-8")
    for text in ("Sony", "Bulgaria", "Asparuh", "founder (by the model)", "Who founded it?"):
        assert text in picture
