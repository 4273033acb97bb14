"""Portability questions of edits, from a graph."""

from __future__ import annotations

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.ripples.edit_questions import with_questions
from kg_edit.evaluation.ripples.ripple_edits import Excluded
from kg_edit.graphs.source import as_source


@pytest.mark.parametrize("order", [("Oslo", "Paris"), ("Paris", "Oslo")])
def test_questions_do_not_ask_for_the_edits_own_subject(order: tuple[str, str]) -> None:
    """Both edits share o* and r, so the graph is asked once; the capital of France is no question about Paris."""
    graph = nx.MultiDiGraph()
    graph.add_nodes_from((name, {"label": name}) for name in ("France", "Paris", "Oslo"))
    graph.add_edge("France", "Paris", label="P36")
    edits = [
        Edit(subject=name, prompt="{} lies in", relation="country", relation_id="P17", target_new="France")
        for name in order
    ]
    questioned = with_questions(as_source(graph), edits, seed=0, excluded=Excluded())
    questions = {edit.subject: [(q.question, q.answer) for q in edit.portability] for edit in questioned}
    assert questions == {"Oslo": [("What is the capital of the country of Oslo?", "Paris")], "Paris": []}
