"""A static picture of a small subgraph, as SVG or PNG: a tree from left to right, each leaf on a line of its own.

Each edge has its label on its own line, so that no two labels overlap. A node that several edges reach is drawn at each
of them, and expanded at the first. Lengths are inches, so a picture grows with its graph. Drawn by matplotlib.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from wikidata_cache.atomic import write_atomically
from wikidata_cache.errors import BadOptionError
from wikidata_cache.view.content import printable, with_old_edge

LINE = 0.3  # from one leaf to the next
_PADDING = 0.26  # around a node's text
_GAP = 0.9  # for the bend and the arrow, beside an edge's label
_MARGIN = 0.25
_NARROW, _WIDE = set(" ijlftr.,;:'|!()-I1"), set("mwMW@%—…")

_COLOURS = {  # role: box, text, name in the legend
    "subject": ("#1b4965", "white", "subject s"),
    "target_new": ("#2a7f4f", "white", "new object o*"),
    "target_true": ("#b23a48", "white", "old object o"),
    "neighbour": ("#e9eef2", "#1d2a33", "neighbour"),
}
_LINE, _PROPERTY = "#9aa7b1", "#55636e"
_LINES: Any = {  # an edge's role: its line; "statement" is the plain one
    "edit": {"color": "#2a7f4f", "lw": 2.4, "zorder": 2},
    "old": {"color": "#b23a48", "lw": 1.4, "zorder": 2, "ls": (0, (4, 3))},
    "statement": {"color": _LINE, "lw": 0.9, "zorder": 1},
}
_BOX_HEIGHT = 0.22  # inches
_FOOT = 0.4  # inches for the legend
# Names can hold anything: no mathtext, no TeX; in SVG text stays text, since viewers know more scripts.
_STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,
    "svg.hashsalt": "wikidata_cache",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
}


def draw(graph: nx.MultiDiGraph, path: str | Path, *, title: str | None = None) -> Path:
    """Draw a subgraph from left to right, and return the path that was written.

    The suffix chooses SVG or PNG (150 dots an inch); the same graph gives the same file. Made for up to about
    forty nodes: each leaf takes a line of its own. Nodes that are drawn more than once are outlined from the
    second time on.

    Raises BadOptionError for another suffix or an empty graph.
    """
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png"):
        raise BadOptionError(f"{path}: expected a name ending in .svg or .png.")
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to draw.")
    return write_atomically(path, _picture(graph, title, path.suffix.lower()[1:]))


def svg(graph: nx.MultiDiGraph) -> str:
    """The drawing as SVG text.

    Raises BadOptionError for an empty graph.
    """
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to draw.")
    return _picture(graph, None, "svg").decode()


def _picture(graph: nx.MultiDiGraph, title: str | None, kind: str) -> bytes:
    file = io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        _figure(graph, title).savefig(file, format=kind, dpi=150, metadata=metadata)
    return file.getvalue()


def _figure(graph: nx.MultiDiGraph, title: str | None) -> Figure:
    places, (width, height) = lay_out(with_old_edge(graph))
    width, height = max(width, 6.0), height + _FOOT + (0.35 if title else 0.0)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(-_FOOT, height - _FOOT)  # data are inches, lines count from the bottom
    for place in places:
        if place.parent is not None:
            _draw_edge(axes, place, place.parent)
        _draw_node(axes, place)
    if title:
        axes.text(0.25, height - _FOOT - 0.3, printable(title, longest=120), fontsize=11, weight="bold")
    _draw_legend(axes, places)
    return figure


@dataclass
class DrawnNode:
    """A node drawn at the end of one edge, with its place in inches; `again`: not the first such place."""

    node: str
    role: str
    text: str
    parent: DrawnNode | None = None
    edge_text: str = ""
    edge_role: str = ""
    again: bool = False
    column: int = 0
    left: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """The width of the node's box, in inches."""
        return text_width(self.text, bold=self.role != "neighbour") + _PADDING


def lay_out(graph: nx.MultiDiGraph) -> tuple[list[DrawnNode], tuple[float, float]]:
    """The drawn nodes, each parent before its children, and the picture's (width, height) in inches."""
    places: list[DrawnNode] = []
    seen: set[str] = set()
    for root in graph.nodes:
        if root not in seen:
            places += _tree(graph, root, seen)
    _set_columns(places)
    count = _set_lines(places)
    right = max((place.left + place.width for place in places), default=1.0)
    return places, (right + _MARGIN, (count + 1) * LINE)


def _tree(graph: nx.MultiDiGraph, root: str, seen: set[str]) -> list[DrawnNode]:
    """Breadth first, so that a node is expanded where it is nearest to the root."""
    data = graph.nodes[root]
    queue = [DrawnNode(root, data["role"], printable(data["label"]), column=data["hop"])]
    seen.add(root)
    for place in queue:
        if not place.again:
            for child in _children(graph, place):
                child.again = child.node in seen
                seen.add(child.node)
                queue.append(child)
    return queue


def _children(graph: nx.MultiDiGraph, place: DrawnNode) -> list[DrawnNode]:
    """The edit's edge first, the one it replaces last; else by property, so that equal ones stand together."""
    children = []
    for _, target, data in graph.out_edges(place.node, data=True):
        node = graph.nodes[target]
        ends = target, node["role"], printable(node["label"])
        children.append(DrawnNode(*ends, place, printable(data["label"]), data["role"], column=place.column + 1))
    rank = {"edit": 0, "old": 2}
    return sorted(children, key=lambda child: (rank.get(child.edge_role, 1), child.edge_text, child.text, child.node))


def _set_lines(places: list[DrawnNode]) -> int:
    """Give leaves consecutive lines from the top and parents the middle of theirs; returns the line count."""
    below: dict[int, list[DrawnNode]] = {id(place): [] for place in places}
    roots = [place for place in places if place.parent is None]
    for place in places:
        if place.parent is not None:
            below[id(place.parent)].append(place)
    stack, leaves = roots[::-1], []
    while stack:
        place = stack.pop()
        stack += below[id(place)][::-1]
        if not below[id(place)]:
            leaves.append(place)
    for line, place in enumerate(reversed(leaves), start=1):
        place.y = line * LINE
    for place in reversed(places):  # children stand behind their parents
        if children := below[id(place)]:
            place.y = (children[0].y + children[-1].y) / 2
    return len(leaves)


def _set_columns(places: list[DrawnNode]) -> None:
    """Each column begins behind the one before it and the longest edge label between them."""
    count = max((place.column for place in places), default=0) + 1
    nodes, edges = [0.0] * count, [0.0] * count
    for place in places:
        nodes[place.column] = max(nodes[place.column], place.width)
        if place.parent is not None:
            edges[place.column] = max(edges[place.column], text_width(place.edge_text) + _GAP)
    for place in places:
        place.left = _MARGIN + sum(nodes[: place.column]) + sum(edges[: place.column + 1])


def _draw_node(axes: Axes, place: DrawnNode) -> None:
    face, ink, _ = _COLOURS[place.role]
    if place.again:
        outline = _LINE if place.role == "neighbour" else face
        colours, ink = {"fc": "white", "ec": outline, "ls": (0, (3, 2))}, outline
        ink = ink if place.role != "neighbour" else _PROPERTY
    else:
        colours = {"fc": face, "ec": "none"}
    corner = (place.left, place.y - _BOX_HEIGHT / 2)
    style: Any = {"boxstyle": "round,pad=0,rounding_size=0.08", "zorder": 3, "lw": 0.9, **colours}
    axes.add_patch(FancyBboxPatch(corner, place.width, _BOX_HEIGHT, **style))
    weight = "normal" if place.role == "neighbour" else "bold"
    at = place.left + place.width / 2, place.y
    axes.text(*at, place.text, color=ink, weight=weight, ha="center", va="center_baseline", zorder=4)


def _draw_edge(axes: Axes, place: DrawnNode, parent: DrawnNode) -> None:
    """Draw an edge: a curve from the parent to the line of `place`, then straight through its label."""
    is_edit, is_plain = place.edge_role == "edit", place.edge_role not in ("edit", "old")
    start, end = parent.left + parent.width, place.left
    straight = end - text_width(place.edge_text, bold=is_edit) - 0.45
    middle = (start + straight) / 2
    points = [(start, parent.y), (middle, parent.y), (middle, place.y), (straight, place.y), (end, place.y)]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4, Curve.LINETO])
    line = _LINES["statement" if is_plain else place.edge_role]
    size = 7 if is_plain else 11
    axes.add_patch(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=size, fill=False, shrinkB=0, **line))
    text: Any = {"style": "italic", "color": _PROPERTY} if is_plain else {"color": line["color"]}
    box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none"}
    at = (straight + end - 0.1) / 2, place.y
    weight = "bold" if is_edit else "normal"
    axes.text(*at, place.edge_text, ha="center", va="center", fontsize=8, weight=weight, bbox=box, zorder=2.5, **text)


def _draw_legend(axes: Axes, places: list[DrawnNode]) -> None:
    roles = {place.role for place in places}
    dot: Any = {"marker": "o", "ls": "", "ms": 8}
    marks = [
        Line2D([], [], mfc=face, mec=_LINE if role == "neighbour" else face, label=name, **dot)
        for role, (face, _, name) in _COLOURS.items()
        if role in roles
    ]
    for role, name in (("edit", "the edit"), ("old", "what it replaces")):
        if any(place.edge_role == role for place in places):
            line = {key: value for key, value in _LINES[role].items() if key != "zorder"}
            marks.append(Line2D([], [], label=name, **line))
    if any(place.again for place in places):
        marks.append(Line2D([], [], mfc="white", mec=_PROPERTY, label="drawn above or below too", **dot))
    axes.legend(handles=marks, loc="lower left", ncols=len(marks), frameon=False, fontsize=8)


def text_width(text: str, *, bold: bool = False) -> float:
    """The approximate width of a label in inches at 9 points."""
    return sum(map(_glyph_width, text)) * (1.13 if bold else 1.0)


def _glyph_width(character: str) -> float:
    if character in _NARROW:
        return 0.042
    if unicodedata.east_asian_width(character) in "WF":
        return 0.14
    if unicodedata.combining(character):
        return 0.0
    return 0.115 if character in _WIDE else 0.088 if character.isupper() else 0.075
