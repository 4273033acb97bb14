"""Make a self-contained, interactive HTML page (cytoscape.js) of a subgraph; the page loads nothing from the network.

The page has its data as JSON (`elements`: boxes with texts, sizes and places), and the same statements as a table.
"""

from __future__ import annotations

import json
import re
import textwrap
from html import escape
from importlib.resources import files
from typing import Any

import networkx as nx

from wikidata_cache.errors import BadOptionError
from wikidata_cache.view.content import GraphContent, first_ring, graph_content, has_edit, printable, with_old_edge
from wikidata_cache.view.page_layout import CROWD, LARGE, place_nodes
from wikidata_cache.view.tree import text_width

_CROWDED = {"s": 26, "new": 26, "old": 26, "near": 17}  # pixels: important nodes have a larger font than the usual 12
_FEW = 40  # in a large graph, up to this many nearest neighbours get a larger font
_OUTER = {"far": 6, "beyond": 3}  # pixels in a large graph: only shapes at first, readable after zooming in
_PER_LINE, _PIXELS = 22, 96.0  # characters per line; pixels per inch

_PLACE = re.compile("@@([A-Z]+)@@")
_LEGEND = (  # (CSS class, name); an entry is shown if the page has such a node or edge
    ("s", "{2}"),
    ("new", "new object o*"),
    ("old", "old object o"),
    ("line", "the edit"),
    ("line dashed", "what it replaces"),
    ("near", "hop {0}"),
    ("far", "hop {1}"),
    ("beyond", "farther"),
)
_SCRIPTS = ("labels.js", "graph.js", "page.js")  # labels.js defines functions that graph.js uses
_MARKS = {"edit": "new", "old": "replaced"}


def page(graph: nx.MultiDiGraph, *, title: str | None = None) -> str:
    """Return the page as HTML text. The same graph gives the same text. `title` replaces the heading.

    Raises BadOptionError for an empty graph.
    """
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to show.")
    shown = elements(graph)
    heading = headline(graph) if title is None else printable(title, longest=200)
    parts = {
        "TITLE": escape(heading),
        "HEADING": escape(heading) if title is not None else _heading(graph),
        "SUBTITLE": escape(subtitle(graph, shown)),
        "SUMMARY": escape(f"Graph, {', '.join(_counts(shown))}: {heading}"),
        "LEGEND": _legend(shown),
        "COUNT": f"All as text: {_counts(shown)[1]}",
        "ROWS": statement_rows(shown),
        "DATA": embeddable(shown),
        "STYLE": _template("page.css"),
        "SCRIPT": "".join(map(_template, _SCRIPTS)),
        "CYTOSCAPE": (files("wikidata_cache") / "view" / "vendor" / "cytoscape.min.js").read_text(encoding="utf-8"),
    }
    return _PLACE.sub(lambda match: parts[match[1]], _template("page.html"))


def headline(graph: nx.MultiDiGraph) -> str:
    """Return the edit as "subject — relation → new object"; without an edit, the label of the first node."""
    for u, v, data in graph.edges(data=True):
        if data.get("role") == "edit":
            return f"{_label(graph, u)} — {printable(data['label'] or 'edit', longest=80)} → {_label(graph, v)}"
    return _label(graph, next(iter(graph)))


def subtitle(graph: nx.MultiDiGraph, shown: GraphContent) -> str:
    """Return one line on what was sampled; `shown` is the graph's content with the replaced statement."""
    about = graph.graph
    old = about.get("old_edge")
    parts = [f"instead of {printable(old['object_label'], longest=80)}"] if old else []
    parts += _counts(shown)
    if "hops" in about:
        parts.append(f"{_count(about['hops'], 'hop', 'hops')}, {about['per_node']} a node, seed {about['seed']}")
    parts += [f"{merged} was merged into {item}" for merged, item in about.get("redirects", {}).items()]
    return " · ".join(parts)


def statement_rows(shown: GraphContent) -> str:
    """Return the statements as HTML table rows."""
    label = {node["id"]: node["label"] for node in shown["nodes"]}

    def cell(node: str) -> str:
        button = f'<button type="button" class="go" dir="auto" data-node="{escape(node)}">'
        return f"<td>{button}{escape(label[node])}</button></td>"

    rows = []
    for edge in shown["edges"]:
        mark = _MARKS.get(edge["role"], "")
        row_class = f' class="{edge["role"]}"' if mark else ""
        said = " · ".join(filter(None, [edge["label"], mark, edge["note"]]))
        property_cell = f'<td dir="auto">{escape(said)}</td>'
        ids = escape(f"{edge['source']} {edge['property']} {edge['target']}")
        rows.append(f"<tr{row_class}>{cell(edge['source'])}{property_cell}{cell(edge['target'])}<td>{ids}</td></tr>")
    return "\n".join(rows)


def elements(graph: nx.MultiDiGraph) -> GraphContent:
    """Return `graph_content` of a graph with its old edge; each node has the lines, font, size and place of its box."""
    shown = with_old_edge(graph)
    content = graph_content(shown)
    fonts = _fonts(content)
    boxes = {node["id"]: _box(node["label"], fonts.get(node["kind"], 12)) for node in content["nodes"]}
    places = place_nodes(shown, {node: (box["width"], box["height"]) for node, box in boxes.items()})
    for node in content["nodes"]:
        node |= boxes[node["id"]]
        node["x"], node["y"] = places[node["id"]]
    return content


def _fonts(content: GraphContent) -> dict[str, int]:
    """Return {kind of node: font size in pixels} for the sizes that are not 12."""
    if len(content["nodes"]) <= LARGE:
        return _CROWDED if len(content["edges"]) > CROWD else {}
    few = sum(node["kind"] == "near" for node in content["nodes"]) <= _FEW
    return {**_CROWDED, "near": 22 if few else 12, **_OUTER}


def _box(label: str, font: int) -> dict[str, Any]:
    """Return a label in at most two lines, its font size, and the width and height of its box, in pixels."""
    whole = printable(label, longest=2 * _PER_LINE)
    lines = textwrap.wrap(whole, _PER_LINE, max_lines=2, placeholder="…") or ["—"]
    width = max(text_width(line, bold=True) for line in lines) * _PIXELS + 24
    height = len(lines) * 15 + 14
    size = {"width": round(width * font / 12), "height": round(height * font / 12)}
    return {"lines": "\n".join(lines), "font": font, **size}


def embeddable(value: object) -> str:
    """Return JSON as ASCII without &, < and >, so that it cannot end the script element around it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))  # ASCII: U+2028 and similar characters are escaped
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _heading(graph: nx.MultiDiGraph) -> str:
    heading = headline(graph)
    for u, v, data in graph.edges(data=True):
        if data.get("role") == "edit":
            relation = escape(printable(data["label"] or "edit", longest=80))
            new = f'<bdi class="new">{escape(_label(graph, v))}</bdi>'
            return f'<bdi>{escape(_label(graph, u))}</bdi> <span class="property">{relation} →</span> {new}'
    return f"<bdi>{escape(heading)}</bdi>"


def _legend(shown: GraphContent) -> str:
    edges = {edge["role"] for edge in shown["edges"]}
    first = first_ring(shown["edges"])
    middle = "subject s" if has_edit(shown["edges"]) else "the item itself"
    kinds = {node["kind"] for node in shown["nodes"]}
    kinds |= {kind for role, kind in (("edit", "line"), ("old", "line dashed")) if role in edges}
    return "".join(
        f'<li><span class="swatch {kind}"></span>{name.format(first, first + 1, middle)}</li>'
        for kind, name in _LEGEND
        if kind in kinds
    )


def _label(graph: nx.MultiDiGraph, node: str) -> str:
    return printable(str(graph.nodes[node].get("label", node)), longest=80) or node


def _counts(shown: GraphContent) -> list[str]:
    """Return the numbers of entities and statements shown, as two texts."""
    replaced = sum(edge["role"] == "old" for edge in shown["edges"])
    statements = _count(len(shown["edges"]), "statement", "statements")
    return [
        _count(len(shown["nodes"]), "entity", "entities"),
        f"{statements}, {replaced} of them replaced" if replaced else statements,
    ]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _template(name: str) -> str:
    return (files("wikidata_cache") / "view" / "template" / name).read_text(encoding="utf-8")
