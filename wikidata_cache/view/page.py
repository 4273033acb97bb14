"""Make a self-contained, interactive HTML page (cytoscape.js) of a subgraph; the page loads nothing from the network.

The page has its data as JSON (`elements`: boxes with texts, sizes and places), and the same statements as a table.
"""

from __future__ import annotations

import json
import re
import textwrap
from html import escape
from importlib.resources import files

import networkx as nx

from kg_common.terminal import number_of
from wikidata_cache.errors import BadOptionError
from wikidata_cache.view.content import GraphContent, graph_content, has_edit, nearest_hop, printable, with_old_edge
from wikidata_cache.view.page_layout import CROWD, LARGE, place_nodes
from wikidata_cache.view.tree import text_width

_CROWDED = {"s": 26, "new": 26, "old": 26, "near": 17}  # pixels: important nodes have a larger font than the usual 12
_FEW = 40  # in a large graph, up to this many nearest neighbours get a larger font
_OUTER = {"far": 6, "beyond": 3}  # pixels in a large graph: only shapes at first, readable after zooming in
_PER_LINE = 22  # characters

_PLACE = re.compile("@@([A-Z]+)@@")  # where page.html has a part, such as @@TITLE@@
_LINES = {"edit": "line", "old": "line dashed"}  # CSS class of the edges of a role
_SCRIPTS = ("labels.js", "graph.js", "page.js")  # labels.js defines functions that graph.js uses
_MARKS = {"edit": "new", "old": "replaced"}  # what the table of statements says of an edge of this role


def page(graph: nx.MultiDiGraph) -> str:
    """Return the page as HTML text. The same graph gives the same text."""
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to show.")
    content = elements(graph)
    heading = headline(graph)
    entities, statements = _write_counts(content)
    parts = {
        "TITLE": escape(heading),
        "HEADING": _mark_up_headline(graph),
        "SUBTITLE": escape(subtitle(graph, content)),
        "SUMMARY": escape(f"Graph, {entities}, {statements}: {heading}"),
        "LEGEND": _write_legend(content),
        "COUNT": f"All as text: {statements}",
        "ROWS": statement_rows(content),
        "DATA": embeddable(content),
        "STYLE": _read_file("template/page.css"),
        "SCRIPT": "".join(_read_file(f"template/{name}") for name in _SCRIPTS),
        "CYTOSCAPE": _read_file("vendor/cytoscape.min.js"),
    }
    return _PLACE.sub(lambda match: parts[match[1]], _read_file("template/page.html"))


def _mark_up_headline(graph: nx.MultiDiGraph) -> str:
    """Return `headline` as HTML, with the parts of the edit in their colours."""
    edit = _read_edit(graph)
    if edit is None:
        return f"<bdi>{escape(headline(graph))}</bdi>"
    subject, relation, new = map(escape, edit)
    return f'<bdi>{subject}</bdi> <span class="property">{relation} →</span> <bdi class="new">{new}</bdi>'


def _write_legend(content: GraphContent) -> str:
    """Return the legend of the kinds of nodes and edges that are there; hops count from the edit, or from the item."""
    kinds = {node["kind"] for node in content["nodes"]}
    for edge in content["edges"]:
        if edge["role"] in _LINES:
            kinds.add(_LINES[edge["role"]])
    nearest = nearest_hop(content["edges"])
    middle = "the item itself"
    if has_edit(content["edges"]):
        middle = "subject s"
    names = {
        "s": middle,
        "new": "new object o*",
        "old": "old object o",
        "line": "the edit",
        "line dashed": "what it replaces",
        "near": f"hop {nearest}",
        "far": f"hop {nearest + 1}",
        "beyond": "farther",
    }
    entries = []
    for kind, name in names.items():
        if kind in kinds:
            entries.append(f'<li><span class="swatch {kind}"></span>{name}</li>')
    return "".join(entries)


def headline(graph: nx.MultiDiGraph) -> str:
    """Return the edit as "subject — relation → new object"; without an edit, the label of the first node."""
    edit = _read_edit(graph)
    if edit is None:
        return _read_label(graph, next(iter(graph)))
    subject, relation, new = edit
    return f"{subject} — {relation} → {new}"


def _read_edit(graph: nx.MultiDiGraph) -> tuple[str, str, str] | None:
    """Return the labels of subject, relation and new object; None for a graph without an edit."""
    for u, v, data in graph.edges(data=True):
        if data.get("role") == "edit":
            return _read_label(graph, u), printable(data["label"] or "edit", longest=80), _read_label(graph, v)
    return None


def subtitle(graph: nx.MultiDiGraph, content: GraphContent) -> str:
    """Return one line on what was sampled; `content` is that of the graph with the replaced statement."""
    about = graph.graph
    old = about.get("old_edge")
    parts = []
    if old:
        parts.append(f"instead of {printable(old['object_label'], longest=80)}")
    parts += _write_counts(content)
    if "hops" in about:
        parts.append(f"{number_of(about['hops'], 'hop')}, {about['per_node']} a node, seed {about['seed']}")
    parts += [f"{merged} was merged into {item}" for merged, item in about.get("redirects", {}).items()]
    return " · ".join(parts)


def statement_rows(content: GraphContent) -> str:
    """Return the statements as HTML table rows."""
    label = {node["id"]: node["label"] for node in content["nodes"]}

    def cell(node: str) -> str:
        button = f'<button type="button" class="go" dir="auto" data-node="{escape(node)}">'
        return f"<td>{button}{escape(label[node])}</button></td>"

    rows = []
    for edge in content["edges"]:
        mark = _MARKS.get(edge["role"], "")
        row_class = ""
        if mark:
            row_class = f' class="{edge["role"]}"'
        text = " · ".join(filter(None, [edge["label"], mark, edge["note"]]))
        ids = escape(f"{edge['source']} {edge['property']} {edge['target']}")
        rows.append(
            f'<tr{row_class}>{cell(edge["source"])}<td dir="auto">{escape(text)}</td>{cell(edge["target"])}'
            f"<td>{ids}</td></tr>"
        )
    return "\n".join(rows)


def elements(graph: nx.MultiDiGraph) -> GraphContent:
    """Return `graph_content` of a graph with its old edge; each node has the lines, font, size and place of its box."""
    shown = with_old_edge(graph)
    content = graph_content(shown)
    fonts = _choose_fonts(content)
    sizes = {}
    for node in content["nodes"]:
        node |= _measure_box(node["label"], font=fonts.get(node["kind"], 12))
        sizes[node["id"]] = (node["width"], node["height"])
    places = place_nodes(shown, sizes)
    for node in content["nodes"]:
        x, y = places[node["id"]]
        node["x"] = x
        node["y"] = y
    return content


def _measure_box(label: str, *, font: int) -> dict[str, str | int]:
    """Return {"lines": a label as one or two lines, "font", "width", "height"}; the last three are in pixels."""
    lines = textwrap.wrap(printable(label, longest=2 * _PER_LINE), _PER_LINE, max_lines=2, placeholder="…")
    if not lines:
        lines = ["—"]
    # The width and height in a font of 12 pixels, with the margins.
    width = max(text_width(line, bold=True) for line in lines) + 24
    height = len(lines) * 15 + 14
    return {
        "lines": "\n".join(lines),
        "font": font,
        "width": round(width * font / 12),
        "height": round(height * font / 12),
    }


def _choose_fonts(content: GraphContent) -> dict[str, int]:
    """Return the sizes of fonts in pixels by kind of node; other kinds have 12 pixels."""
    if len(content["nodes"]) > LARGE:
        near = sum(node["kind"] == "near" for node in content["nodes"])
        near_font = 12
        if near <= _FEW:
            near_font = 22
        return {**_CROWDED, **_OUTER, "near": near_font}
    if len(content["edges"]) > CROWD:
        return _CROWDED
    return {}


def embeddable(value: object) -> str:
    """Return JSON as ASCII without &, < and >, so that it cannot end the script element around it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))  # ASCII: U+2028 and similar characters are escaped
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _read_label(graph: nx.MultiDiGraph, node: str) -> str:
    return printable(str(graph.nodes[node].get("label", node)), longest=80) or node


def _write_counts(content: GraphContent) -> tuple[str, str]:
    """Return the numbers of entities and statements shown, as two texts."""
    entities = f"{len(content['nodes'])} entities"
    if len(content["nodes"]) == 1:
        entities = "1 entity"
    statements = number_of(len(content["edges"]), "statement")
    replaced = sum(edge["role"] == "old" for edge in content["edges"])
    if replaced:
        statements += f", {replaced} of them replaced"
    return entities, statements


def _read_file(name: str) -> str:
    return files("wikidata_cache").joinpath("view", *name.split("/")).read_text(encoding="utf-8")
