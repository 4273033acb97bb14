"""Draw a small subgraph as SVG inside an HTML page: the tree of `wikidata_cache.view.tree`, in the colours of the page.

A drawing has a few kilobytes and needs no matplotlib, so that a page can have hundreds of drawings. Lengths are CSS
pixels, y grows downwards. Every text is escaped. `STYLE` uses the custom properties of the page, else the colours of a
light page.
"""

from __future__ import annotations

from html import escape

import networkx as nx

from wikidata_cache.errors import BadOptionError
from wikidata_cache.view.content import with_old_edge
from wikidata_cache.view.tree import BOX_HEIGHT, DrawnNode, lay_out

STYLE = """
.subgraph { font: 12px "DejaVu Sans", Verdana, sans-serif; max-width: 100%; height: auto; }
.subgraph text { text-anchor: middle; dominant-baseline: central; fill: var(--ink, #18212b); }
.subgraph rect { fill: var(--near, #e9eef2); }
.subgraph path { fill: none; stroke: var(--edge, #9aa7b1); stroke-width: 1.2; }
.subgraph .label { font-size: 10.5px; font-style: italic; fill: var(--soft, #5a6673);
  stroke: var(--panel, #ffffff); stroke-width: 5px; paint-order: stroke; stroke-linejoin: round; }
.subgraph path.head { fill: var(--edge, #9aa7b1); stroke: none; }
.subgraph :is(.s, .new, .old) text { fill: var(--panel, #ffffff); font-weight: bold; }
.subgraph .s rect { fill: var(--s, #1b4965); }
.subgraph .new rect { fill: var(--new-object, #6a3d9a); }
.subgraph .old rect { fill: var(--old-object, #b23a48); }
.subgraph .again rect { fill: var(--panel, #ffffff); stroke: var(--edge, #9aa7b1); stroke-dasharray: 3 2; }
.subgraph .again text { fill: var(--soft, #5a6673); }
.subgraph .edit path { stroke: var(--new-object, #6a3d9a); stroke-width: 3; }
.subgraph .edit path.head { fill: var(--new-object, #6a3d9a); stroke: none; }
.subgraph .edit .label { fill: var(--new-object, #6a3d9a); font-weight: bold; font-style: normal; }
.subgraph .replaced path { stroke: var(--old-object, #b23a48); stroke-dasharray: 5 4; }
.subgraph .replaced path.head { fill: var(--old-object, #b23a48); stroke: none; }
.subgraph .replaced .label { fill: var(--old-object, #b23a48); }
"""

_PIXELS = 96.0  # CSS pixels per inch
_HEAD = 8  # pixels; length of an arrow head
_CLASSES = {"subject": "s", "target_new": "new", "target_true": "old"}
_EDGES = {"edit": "edge edit", "old": "edge replaced"}


def inline_svg(graph: nx.MultiDiGraph, *, title: str, most: int = 60) -> str:
    """Return the drawing as an ``<svg>`` element; of a larger graph, only the ``most`` statements nearest to the edit.

    ``title`` is the text for screen readers.

    Raises BadOptionError for an empty graph.
    """
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to draw.")
    places, (width, height) = lay_out(with_old_edge(_first(graph, most)))
    size = f"{width * _PIXELS:.0f}", f"{height * _PIXELS:.0f}"
    edges = (_edge(place, place.parent, height) for place in places if place.parent is not None)
    nodes = (_node(place, height) for place in places)
    head = f'<svg class="subgraph" role="img" width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}">'
    return f"{head}<title>{escape(title)}</title>{''.join(edges)}{''.join(nodes)}</svg>"


def _first(graph: nx.MultiDiGraph, most: int) -> nx.MultiDiGraph:
    """Return the graph with its first ``most`` edges, and the nodes that these edges connect."""
    edges = list(graph.edges(keys=True))
    return graph.edge_subgraph(edges[:most]) if len(edges) > most else graph


def _node(place: DrawnNode, height: float) -> str:
    kind = " ".join(("node", "again" if place.again else _CLASSES.get(place.role, "")))
    x, y, width = place.left * _PIXELS, (height - place.y) * _PIXELS, place.width * _PIXELS
    tall = BOX_HEIGHT * _PIXELS
    box = f'<rect x="{x:.1f}" y="{y - tall / 2:.1f}" width="{width:.1f}" height="{tall:.1f}" rx="5"/>'
    return f'<g class="{kind.strip()}">{box}<text x="{x + width / 2:.1f}" y="{y:.1f}">{escape(place.text)}</text></g>'


def _edge(place: DrawnNode, parent: DrawnNode, height: float) -> str:
    """Return an edge: out of the parent's column, a bend to the line of `place`, straight to its node, and a label."""
    start, out, bent, end = (
        f"{x * _PIXELS:.1f}" for x in (parent.left + parent.width, *place.bend, place.left - _HEAD / _PIXELS)
    )
    above, own, middle = (height - parent.y) * _PIXELS, (height - place.y) * _PIXELS, sum(place.bend) / 2 * _PIXELS
    bend = f"C{middle:.1f} {above:.1f} {middle:.1f} {own:.1f} {bent} {own:.1f}"
    head = f'<path class="head" d="M{place.left * _PIXELS:.1f} {own:.1f}l-{_HEAD} -3.5v7z"/>'
    label = f'<text class="label" x="{place.label_x * _PIXELS:.1f}" y="{own:.1f}">{escape(place.edge_text)}</text>'
    kind = _EDGES.get(place.edge_role, "edge")
    return f'<g class="{kind}"><path d="M{start} {above:.1f}H{out}{bend}H{end}"/>{head}{label}</g>'
