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
        node_role = "neighbour"
        edge_role = "statement"
        if statement.origin == "edit":
            node_role = "target_new"
            edge_role = "edit"
        if thing.key not in graph:
            graph.add_node(thing.key, label=thing.label, role=node_role, hop=hop)
        label = statement.relation_name
        if statement.origin == "model":
            label = f"{label} (by the model)"
        graph.add_edge(statement.subject.key, thing.key, key=statement.relation_key, label=label, role=edge_role)
    return graph


def _source(statement: Statement) -> str:
    """Return the ids of a statement and where it comes from: "Q17, P36, Q1490; from the graph"."""
    ids = ", ".join(statement.part_keys)
    source = f"{ids}; from {_ORIGINS[statement.origin]}"
    if statement.origin == "edit":
        source += f" {statement.edit!r}"
    return source
