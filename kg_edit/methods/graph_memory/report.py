"""A walk for a reader: each statement with its ids and its origin, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

import networkx as nx

from kg_edit.methods.graph_memory.edited_graph import Statement
from kg_edit.methods.graph_memory.walk import Walk
from wikidata_cache.view.svg import draw

_ORIGINS = {
    "edit": "the edit",
    "rule": "a rule, after the edit",
    "graph": "the graph",
    "model": "the model",
}
_NONE = "no edited thing is named and asked about: the prompt stays as it is"


def walk_lines(walk: Walk) -> list[str]:
    """Return a line for each statement: "The capital of Japan is Tokyo.  (Q17, P36, Q1490; from the graph)"."""
    if not walk:
        return [_NONE]
    return [f"{statement.sentence}  ({_source(statement)})" for statement in walk.statements]


def draw_walk(walk: Walk, path: str | Path, *, title: str = "") -> Path:
    """Draw a walk as an SVG file, from left to right, and return its path.

    Args:
        walk: a walk with at least one statement.
        path: a name that ends in .svg.
        title: the heading of the picture, such as the question.
    """
    return draw(walk_graph(walk), path, title=title)


def walk_graph(walk: Walk) -> nx.MultiDiGraph:
    """Return a walk as a graph that can be drawn; a statement of the model is marked at its edge."""
    graph = nx.MultiDiGraph()
    first = walk.statements[0].subject
    graph.add_node(first.key, label=first.label, role="subject", hop=0)
    for hop, statement in enumerate(walk.statements, start=1):
        thing = statement.object
        is_edit = statement.origin == "edit"
        if thing.key not in graph:
            role = "target_new" if is_edit else "neighbour"
            graph.add_node(thing.key, label=thing.label, role=role, hop=hop)
        label = statement.called
        if statement.origin == "model":
            label = f"{label} (by the model)"
        role = "edit" if is_edit else "statement"
        graph.add_edge(statement.subject.key, thing.key, key=statement.relation_key, label=label, role=role)
    return graph


def _source(statement: Statement) -> str:
    ids = ", ".join(statement.ids)
    edit = f" {statement.edit!r}" if statement.origin == "edit" else ""
    return f"{ids}; from {_ORIGINS[statement.origin]}{edit}"
