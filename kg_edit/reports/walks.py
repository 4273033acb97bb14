"""The walks of `graph-memory` for a reader: from which statements each answer comes, as text and as a picture.

A walk is a row of statements (`kg_edit.patches.walks`). `walk_lines` writes it as text, `draw_walk` draws a file.
`walk_markdown` and `walk_html` are the parts of a report.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import networkx as nx

from kg_edit.patches.walks import ShownWalk
from kg_edit.text.display import escaped_markdown, one_line
from wikidata_cache.view.svg import draw, inline_svg

NO_STATEMENT = "no edited thing is named and asked about: the prompt stays as it is"
WALK_LEGEND = (
    '<p class="keys"><span class="node-key s">where the walk begins</span>'
    '<span class="node-key new">new object, by the edit</span></p>'
)
# What the picture says at the arrow of a statement that neither the graph nor the edit has
_MARKS = {"model": " (by the model)", "rule": " (by a rule)"}


def walk_lines(walk: ShownWalk) -> list[str]:
    """Return a line for each statement: "The capital of Japan is Tokyo.  (Q17, P36, Q1490; from the graph)"."""
    if not walk:
        return [NO_STATEMENT]
    return [f"{statement.sentence}  ({statement.source})" for statement in walk]


def draw_walk(walk: ShownWalk, path: str | Path, *, title: str = "") -> Path:
    """Draw a walk as an SVG file, from left to right, and return its path.

    Args:
        walk: a walk with at least one statement.
        path: a name that ends in .svg.
        title: the heading of the picture, such as the question.
    """
    return draw(walk_graph(walk), path, title=title)


def walk_graph(walk: ShownWalk) -> nx.MultiDiGraph:
    """Return a walk as a graph that can be drawn; a statement of the model or of a rule is marked at its arrow.

    A question about two edited things has a walk from each. The ``hop`` of a thing is the column in which it is drawn:
    0 where a walk begins, and one more than that of the thing before it.
    """
    graph = nx.MultiDiGraph()
    for statement in walk:
        start, relation, end = statement.ids
        if start not in graph:  # where a walk begins
            graph.add_node(start, label=statement.subject, role="subject", hop=0)
        node_role = "neighbour"
        edge_role = "statement"
        if statement.origin == "edit":
            node_role = "target_new"
            edge_role = "edit"
        if end not in graph:
            graph.add_node(end, label=statement.object, role=node_role, hop=graph.nodes[start]["hop"] + 1)
        label = statement.relation + _MARKS.get(statement.origin, "")
        graph.add_edge(start, end, key=relation, label=label, role=edge_role)
    return graph


def walk_markdown(prompt: str, answer: str, walk: ShownWalk) -> str:
    """Return a prompt with its answer and the statements behind it, as an item of a Markdown list."""
    lines = [f"- {escaped_markdown(one_line(prompt))} → {escaped_markdown(one_line(answer))}"]
    for number, line in enumerate(walk_lines(walk), start=1):
        mark = f"{number}." if walk else "-"
        lines.append(f"    {mark} {escaped_markdown(one_line(line))}")
    return "\n".join(lines)


def walk_html(walk: ShownWalk, *, title: str) -> str:
    """Return the picture of a walk and its statements as a list; ``title`` is for screen readers."""
    lines = "".join(f'<li dir="auto">{escape(one_line(line))}</li>' for line in walk_lines(walk))
    if not walk:
        return f'<ul class="small soft">{lines}</ul>'
    picture = inline_svg(walk_graph(walk), title=one_line(title))
    return f'<div class="drawing">{picture}</div><ol class="small">{lines}</ol>'
