"""A subgraph as the data of its page: what it says, in boxes with places."""

import textwrap
from typing import Any

import networkx as nx

from wikidata_cache.view.layout import printable, text_width
from wikidata_cache.view.page_layout import CROWD, LARGE, place_nodes
from wikidata_cache.view.words import Words, with_old_edge, words

_CROWDED = {"s": 26, "new": 26, "old": 26, "near": 17}  # what to read first where all do not fit; else 12 pixels
_FEW = 40  # neighbours that can be read at once beside a large graph's outer hops
_OUTER = {"far": 6, "beyond": 3}  # pixels in a large graph: shapes at first, names as one zooms in
_PER_LINE, _PIXELS = 22, 96.0  # characters; pixels an inch


def elements(graph: nx.MultiDiGraph) -> Words:
    """`words` of a graph and its old edge; each node with the lines and font of its box, its place and size."""
    shown = with_old_edge(graph)
    said = words(shown)
    fonts = _fonts(said)
    boxes = {node["id"]: _box(node["label"], fonts.get(node["kind"], 12)) for node in said["nodes"]}
    places = place_nodes(shown, {node: (box["width"], box["height"]) for node, box in boxes.items()})
    for node in said["nodes"]:
        node |= boxes[node["id"]]
        node["x"], node["y"] = places[node["id"]]
    return said


def _fonts(said: Words) -> dict[str, int]:
    """The pixels of a name by the kind of its node, where they are not 12."""
    if len(said["nodes"]) <= LARGE:
        return _CROWDED if len(said["edges"]) > CROWD else {}
    few = sum(node["kind"] == "near" for node in said["nodes"]) <= _FEW
    return {**_CROWDED, "near": 22 if few else 12, **_OUTER}


def _box(label: str, font: int) -> dict[str, Any]:
    """A label in at most two lines, and the size of the box around them."""
    whole = printable(label, longest=2 * _PER_LINE)
    lines = textwrap.wrap(whole, _PER_LINE, max_lines=2, placeholder="…") or ["—"]
    width = max(text_width(line, bold=True) for line in lines) * _PIXELS + 24
    height = len(lines) * 15 + 14
    size = {"width": round(width * font / 12), "height": round(height * font / 12)}
    return {"lines": "\n".join(lines), "font": font, **size}
