"""Draw a small subgraph as SVG: the tree of `wikidata_cache.view.tree`, with the same colours as the interactive page.

`draw` writes a file with a heading and a legend; `inline_svg` returns an element for a page that has `STYLE` in its
style sheet. A drawing has a few kilobytes, and every text is escaped. Lengths are CSS pixels, y grows downwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import NamedTuple

import networkx as nx

from kg_common.atomic import write_atomically
from wikidata_cache.errors import BadOptionError
from wikidata_cache.view.content import printable, with_old_edge
from wikidata_cache.view.tree import BOX_HEIGHT, DrawnNode, lay_out, text_width

# A page may define the custom properties; a file gets the colours after the comma. Converters to PDF support neither
# var() nor the newer selectors and baselines, so no file needs them.
STYLE = """
.subgraph text { font: 12px "DejaVu Sans", Verdana, sans-serif; text-anchor: middle; fill: var(--ink, #18212b); }
.subgraph rect { fill: var(--near, #e9eef2); }
.subgraph .paper { fill: var(--panel, #ffffff); }
.subgraph path { fill: none; stroke: var(--edge, #9aa7b1); stroke-width: 1.2; }
.subgraph text.label { font-size: 10.5px; font-style: italic; fill: var(--soft, #5a6673); }
.subgraph text.key { font-size: 10.5px; text-anchor: start; }
.subgraph text.heading { font-size: 15px; font-weight: bold; text-anchor: start; }
.subgraph path.head { fill: var(--edge, #9aa7b1); stroke: none; }
.subgraph .s text, .subgraph .new text, .subgraph .old text { fill: var(--panel, #ffffff); font-weight: bold; }
.subgraph .s rect { fill: var(--s, #1b4965); }
.subgraph .new rect { fill: var(--new-object, #6a3d9a); }
.subgraph .old rect { fill: var(--old-object, #b23a48); }
.subgraph .again rect { fill: var(--panel, #ffffff); stroke: var(--edge, #9aa7b1); stroke-dasharray: 3 2; }
.subgraph .again text { fill: var(--soft, #5a6673); }
.subgraph .edit path { stroke: var(--new-object, #6a3d9a); stroke-width: 3; }
.subgraph .edit path.head { fill: var(--new-object, #6a3d9a); stroke: none; }
.subgraph .edit text.label { fill: var(--new-object, #6a3d9a); font-weight: bold; font-style: normal; }
.subgraph .replaced path { stroke: var(--old-object, #b23a48); stroke-dasharray: 5 4; }
.subgraph .replaced path.head { fill: var(--old-object, #b23a48); stroke: none; }
.subgraph .replaced text.label { fill: var(--old-object, #b23a48); }
"""

_LEFT = 24  # where the heading and the legend begin
_HEAD = 8  # length of an arrowhead; `tree.py` keeps a little more room free
# heights of the heading and of the legend
_HEADING = 34
_LEGEND = 38
_BASELINE = 4.2  # from the middle of a line of text down to its baseline
_CLASSES = {"subject": "s", "target_new": "new", "target_true": "old"}
_EDGES = {"edit": "edge edit", "old": "edge replaced"}
_KEYS = (  # class of a node or an edge, and its name in the legend
    ("node s", "subject s"),
    ("node new", "new object o*"),
    ("node old", "old object o"),
    ("node", "neighbour"),
    ("edge edit", "the edit"),
    ("edge replaced", "what it replaces"),
    ("node again", "drawn above or below too"),
)


def draw(graph: nx.MultiDiGraph, path: str | Path, *, title: str | None = None) -> Path:
    """Draw a subgraph from left to right as an SVG file, and return its path.

    The same graph gives the same file. The picture suits up to about forty nodes, since each leaf takes its own line.
    A node that is drawn several times is only outlined from the second time on.

    Args:
        graph: nodes with `label`, and optionally `role` and `hop`; edges with `label` and `role`.
        path: a name that ends in .svg.
        title: the heading of the picture.
    """
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise BadOptionError(f"{path}: expected a name ending in .svg.")
    return write_atomically(path, svg(graph, title=title))


def svg(graph: nx.MultiDiGraph, *, title: str | None = None, widest: float = math.inf) -> str:
    """Return the drawing as an SVG document with a legend, scaled down to at most `widest` pixels of width."""
    tree = _draw_tree(graph)
    heading = printable(title or "", longest=120)
    top = 0
    heading_text = ""
    if heading:
        top = _HEADING
        heading_text = _draw_text(_LEFT, 22, heading, kind="heading")
    keys, keys_width = _draw_legend(tree.classes, top + tree.height + _LEGEND / 2)
    heading_width = 2 * _LEFT + text_width(heading, bold=True) * 15 / 12  # its font has 15 pixels instead of 12
    full_width = max(tree.width, keys_width, heading_width)
    full_height = top + tree.height + _LEGEND
    factor = min(1.0, widest / full_width)
    style = re.sub(r"var\([^,]*, ([^)]*)\)", r"\1", STYLE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="subgraph" width="{factor * full_width:.0f}" '
        f'height="{factor * full_height:.0f}" viewBox="0 0 {full_width:.0f} {full_height:.0f}" '
        f'style="max-width: 100%; height: auto"><style>{style}</style><rect class="paper" width="100%" height="100%"/>'
        f'{heading_text}<g transform="translate(0 {top})">{tree.shapes}</g>{keys}</svg>\n'
    )


def _draw_legend(classes: Collection[str], y: float) -> tuple[str, float]:
    """Return the legend of these classes of nodes and edges in one line at y, and its width in pixels."""
    keys = []
    x = float(_LEFT)
    for kind, name in _KEYS:
        if kind not in classes:
            continue
        if kind.startswith("edge"):
            width = 22
            sign = f'<path d="M{x:.1f} {y:.1f}h{width}"/>'
        else:
            width = 12
            sign = _draw_box(x + width / 2, y, width, 12)
        keys.append(f'<g class="{kind}">{sign}</g>{_draw_text(x + width + 6, y, name, kind="key")}')
        x += width + 6 + text_width(name) + 20
    return "".join(keys), x


def inline_svg(graph: nx.MultiDiGraph, *, title: str, most: int = 60) -> str:
    """Return the drawing as an `<svg>` element for a page with `STYLE`.

    Args:
        graph: as for `draw`.
        title: the text for screen readers.
        most: of a larger graph, only so many statements are drawn, those nearest to the edit.
    """
    tree = _draw_tree(nearest(graph, most))
    size = f'width="{tree.width:.0f}" height="{tree.height:.0f}" viewBox="0 0 {tree.width:.0f} {tree.height:.0f}"'
    fit = 'style="max-width: 100%; height: auto"'
    return f'<svg class="subgraph" role="img" {size} {fit}><title>{escape(title)}</title>{tree.shapes}</svg>'


def nearest(graph: nx.MultiDiGraph, most: int) -> nx.MultiDiGraph:
    """Return the part of a graph with at most `most` statements, those nearest to the edit, and the edit first."""
    if graph.number_of_edges() <= most:
        return graph
    hops: dict[str, int] = dict(graph.nodes(data="hop", default=0))

    def rank(edge: tuple[str, str, str, dict[str, object]]) -> tuple[bool, int]:
        subject, target, _, data = edge
        return data.get("role") != "edit", max(hops[subject], hops[target])

    edges = sorted(graph.edges(keys=True, data=True), key=rank)[:most]
    ends: set[str] = set()
    for subject, target, _, _ in edges:
        ends.add(subject)
        ends.add(target)
    # Not graph.edge_subgraph, whose nodes are in no fixed order: the first one is the root of the tree
    part = nx.MultiDiGraph()
    part.graph.update(graph.graph)
    part.add_nodes_from((node, data) for node, data in graph.nodes(data=True) if node in ends)
    part.add_edges_from(edges)
    return part


class _Drawing(NamedTuple):
    """The edges and nodes of a tree as SVG, their classes, and the width and height in pixels."""

    shapes: str
    classes: set[str]
    width: float
    height: float


def _draw_tree(graph: nx.MultiDiGraph) -> _Drawing:
    """Draw the tree of a graph, with the edge that the edit replaces."""
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to draw.")
    nodes, (width, height) = lay_out(with_old_edge(graph))
    shapes: list[str] = []
    classes: set[str] = set()
    for node in nodes:
        if node.parent is not None:
            kind = _EDGES.get(node.edge_role, "edge")
            shapes.append(f'<g class="{kind}">{_draw_edge(node, node.parent)}</g>')
            classes.add(kind)
    for node in nodes:
        kind = "node"
        if node.again:
            kind = "node again"
        elif node.role in _CLASSES:
            kind = f"node {_CLASSES[node.role]}"
        middle = node.left + node.width / 2
        box = _draw_box(middle, node.y, node.width, BOX_HEIGHT)
        shapes.append(f'<g class="{kind}">{box}{_draw_text(middle, node.y, node.text)}</g>')
        classes.add(kind)
    return _Drawing("".join(shapes), classes, width, height)


def _draw_edge(node: DrawnNode, parent: DrawnNode) -> str:
    """Return the line from a parent to a node, with its head and its label.

    The line leaves the parent's column, bends to the height of the node, and goes straight to its box, under the label.
    """
    start = parent.left + parent.width
    out, bent = node.bend
    middle = (out + bent) / 2
    end = node.left
    above = parent.y
    y = node.y
    line = f"M{start:.1f} {above:.1f}H{out:.1f}C{middle:.1f} {above:.1f} {middle:.1f} {y:.1f} {bent:.1f} {y:.1f}"
    return (
        f'<path d="{line}H{end - _HEAD:.1f}"/>'
        f'<path class="head" d="M{end:.1f} {y:.1f}l-{_HEAD} -3.5v7z"/>'
        f"{_draw_box(node.label_x, y, node.edge_width + 4, 14, kind='paper')}"
        f"{_draw_text(node.label_x, y, node.edge_text, kind='label')}"
    )


def _draw_box(x: float, y: float, width: float, height: float, *, kind: str = "") -> str:
    """Return a rectangle around the point (x, y)."""
    attributes = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5"'
    return f"<rect{_write_class(kind)} {attributes}/>"


def _draw_text(x: float, y: float, text: str, *, kind: str = "") -> str:
    """Return a text whose line has its middle at y."""
    return f'<text{_write_class(kind)} x="{x:.1f}" y="{y + _BASELINE:.1f}">{escape(text)}</text>'


def _write_class(kind: str) -> str:
    if not kind:
        return ""
    return f' class="{kind}"'
